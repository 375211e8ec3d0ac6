"""Second moments in the eigenbasis, against single examples' gradients by autodiff and dense matrices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import layers
from precond.layers.bases_of import bases_of
from tests.problem import AS_USERS

N = 6
KINDS = {
    "embed": layers.Embed(5),
    "wide": layers.dense(),
    "norm": layers.Scale(bias=True),
    "conv": layers.Conv(True, (2,), (1,), "VALID", (1,), (1,), groups=2),
    "loop": layers.dense(bias=False),
    "last": layers.dense(),
}
SHAPES = {
    "embed": {"embedding": (5, 4)},
    "wide": {"kernel": (4, 8), "bias": (8,)},
    "norm": {"scale": (8,), "bias": (8,)},
    "conv": {"kernel": (2, 2, 6), "bias": (6,)},
    "loop": {"kernel": (2, 6, 6)},  # scanned
    "last": {"kernel": (6, 3), "bias": (3,)},
}


def parameters():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s)), SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def forward_of(capture):
    def forward(p, x):
        at = lambda name, y, x: capture.apply(name, p[name], y, x)  # noqa: E731
        h = at("embed", p["embed"]["embedding"][x], x)
        h = jnp.tanh(at("wide", h @ p["wide"]["kernel"] + p["wide"]["bias"], h))
        plain = h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True))
        h = at("norm", plain * p["norm"]["scale"] + p["norm"]["bias"], plain).reshape(-1, 2, 4)
        arguments = {"feature_group_count": 2, "dimension_numbers": ("NWC", "WIO", "NWC")}
        y = jax.lax.conv_general_dilated(h, p["conv"]["kernel"], (1,), "VALID", **arguments) + p["conv"]["bias"]
        h = jnp.tanh(at("conv", y, h)[:, 0])
        h = jax.lax.scan(lambda h, q: (jnp.tanh(capture.apply("loop", q, h @ q["kernel"], h)), None), h, p["loop"])[0]
        return at("last", h @ p["last"]["kernel"] + p["last"]["bias"], h)

    return forward


def matrices_of(layers, tree):
    return {
        n: x.matrix(tree[n][x.kernel.split("/")[1]], tree[n]["bias"] if x.bias else None) for n, x in layers.items()
    }


@functools.cache
def captured():
    params = parameters()
    capture = layers.explicit(KINDS, params)
    forward = forward_of(capture)
    loss = lambda outputs, x: jnp.mean(jnp.sum(outputs**2, -1))  # noqa: E731
    fisher = layers.sampled(layers.categorical())
    plain = layers.value_grad_factors(forward, loss, capture, fisher=fisher)
    f = jax.jit(plain, compiler_options=AS_USERS)  # whose results with and without moments are equal to the last bit
    tx = precond.ekfac(0.1, capture.layers, axis=precond.sharded(None, multiple=4))
    # Bases of many examples: those of six are not determined by their factors.
    first = jax.jit(plain)(params, jnp.arange(1000) % 5, key=jax.random.key(0))[2]
    shape = lambda name, x: (len(x.inputs), *capture.layers[name].size[1:])  # noqa: E731
    unmeasured = {name: x._replace(moments=jnp.zeros(shape(name, x))) for name, x in first.items()}
    state = jax.jit(lambda factors: tx.update(params, tx.init(params), params, factors=factors)[1])(unmeasured)
    return params, jnp.asarray([0, 1, 2, 3, 4, 0]), capture, forward, f, state, first


def test_they_are_the_mean_over_squared_gradients_of_single_examples_in_the_bases():
    params, x, capture, forward, f, state, _ = captured()
    key = jax.random.key(3)
    value, grads, factors = f(params, x, key=key, state=state)
    outputs = jax.jit(forward)(params, x)
    slopes, bases = layers.categorical().sample(key, outputs), bases_of(state, capture.layers, params)
    one = lambda x, g: jax.vjp(lambda p: forward(p, x[None]), params)[1](g[None])[0]  # noqa: E731
    each = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(x, slopes))
    for name in KINDS:
        rows = np.stack([matrices_of(capture.layers, jax.tree.map(lambda g, i=i: g[i], each))[name] for i in range(N)])
        q = {k: np.asarray(b).reshape(-1, *b.shape[-2:]) for k, b in bases[name].items()}
        left = q.get("inputs", np.eye(rows.shape[2])[None])
        right = q.get("outputs", np.eye(rows.shape[3])[None])
        turned = np.einsum("nlio,lij,lop->nljp", rows, left, np.broadcast_to(right, (len(left), *right.shape[1:])))
        expected = np.mean(turned**2, axis=0)
        assert expected.max() > 1e-3
        np.testing.assert_allclose(factors[name].moments, expected, rtol=0, atol=1e-12 * expected.max())
    plain = f(params, x, key=key)
    assert all(plain[2][name].moments is None for name in KINDS)
    chex.assert_trees_all_equal((value, grads), plain[:2])
    for name in KINDS:
        chex.assert_trees_all_equal(factors[name][:2], plain[2][name][:2])


def test_each_layer_gets_the_eigenvectors_of_its_own_factors():
    params, _, capture, *_, state, first = captured()
    bases = bases_of(state, capture.layers, params)
    assert set(bases["embed"]) == {"outputs"}
    assert set(bases["norm"]) == {"inputs"}
    for name in KINDS:
        for part, basis in bases[name].items():
            q, factor = np.asarray(basis), np.asarray(getattr(first[name], part)).reshape(basis.shape)
            diagonal = np.swapaxes(q, -1, -2) @ factor @ q
            off = diagonal - diagonal * np.eye(q.shape[-1])
            np.testing.assert_allclose(off, 0, atol=1e-12 * np.abs(diagonal).max())
            assert np.ptp(np.diagonal(diagonal, axis1=-2, axis2=-1)) > 1e-3 * np.abs(diagonal).max()


@pytest.mark.parametrize("rule", [layers.expand, layers.reduce])
@pytest.mark.parametrize("masked", [False, True])
def test_shared_positions_count_as_the_sharing_rule_has_them(rule, masked):
    rng = np.random.default_rng(1)
    a, g = rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 5, 4))
    mask = np.arange(5) < np.asarray([[5], [2], [4]]) if masked else np.ones((3, 5), bool)
    g = g * mask[:, :, None]
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for d in (3, 4))
    probe = {"inputs": jnp.zeros((3, 3)), "moments": jnp.zeros((1, 3, 4)), "rows": jnp.zeros(())}
    spec, bases = layers.Tap(layers.dense(), rule), {"inputs": jnp.asarray(left), "outputs": jnp.asarray(right)}
    given = jnp.asarray(mask) if masked else None
    whole = jnp.asarray(g)
    tap = lambda p: jnp.sum(layers.tap(spec, jnp.zeros((3, 5, 4)), jnp.asarray(a), p, given, bases) * whole)  # noqa: E731
    wide = np.concatenate([a, np.ones((3, 5, 1))], -1) * mask[:, :, None]
    if rule is layers.reduce:  # one row for each example: the mean of its inputs, the sum of its cotangents
        wide, g = wide.sum(1, keepdims=True) / mask.sum(1)[:, None, None], g.sum(1, keepdims=True)
    each = np.einsum("nti,nto->ntio", wide, g)
    expected = np.sum((left.T @ each @ right) ** 2, axis=(0, 1))
    np.testing.assert_allclose(jax.grad(tap)(probe)["moments"][0], expected, rtol=1e-12)


def test_errors_say_what_to_do():
    params, x, capture, _, f, *_ = captured()
    few = {name: capture.layers[name] for name in ("wide", "last")}
    with pytest.raises(ValueError, match="state= has no eigenbases"):
        f(params, x, key=jax.random.key(0), state=precond.kfac(0.1, capture.layers).init(params))
    with pytest.raises(ValueError, match=r"capture\._replace"):
        f(params, x, key=jax.random.key(0), state=precond.ekfac(0.1, few).init(params))
    frozen = bases_of(precond.ekfac(0.1, few).init(params), few, params)
    assert frozen["wide"]["inputs"].shape == (5, 5)


def two_of_three():
    """A model of three equal layers, of which the optimizer trains two; one of them with another input."""
    kinds = {name: layers.dense(bias=False) for name in ("a", "b", "c")}
    params = {name: {"kernel": jnp.eye(4) + 0.1 * jnp.arange(16.0).reshape(4, 4)} for name in kinds}
    capture = layers.explicit(kinds, params)

    def forward(params, x):
        for name in kinds:
            x = jnp.tanh(capture.apply(name, params[name], x @ params[name]["kernel"], x))
        return x

    groups = {"a": "rest", "b": "here", "c": "here"}
    labels = {name: {"kernel": group} for name, group in groups.items()}
    trained = {name: capture.layers[name] for name in ("b", "c")}
    ekfac = precond.ekfac(0.1, trained, axis=precond.sharded(None, multiple=4))  # the stack is longer than its layers
    tx = optax.partition({"rest": optax.sgd(0.1), "here": ekfac}, labels)

    def make(capture):
        fisher = layers.sampled(layers.gaussian())
        return layers.value_grad_factors(forward, lambda y, x: jnp.mean(jnp.sum(y**2, -1)), capture, fisher=fisher)

    return params, capture, trained, tx, make, forward


def test_where_a_part_of_the_layers_is_trained_the_capture_is_of_these():
    params, capture, trained, tx, make, forward = two_of_three()
    x, key = jax.random.normal(jax.random.key(1), (N, 4)), jax.random.key(2)
    f, state = make(capture._replace(layers=trained)), tx.init(params)
    _, grads, factors = f(params, x, key=key, state=state)
    _, state = tx.update(grads, state, params, factors=factors)
    bases = bases_of(state, trained, params)
    slopes = layers.gaussian().sample(key, forward(params, x))
    each = jax.vmap(lambda x, g: jax.vjp(lambda p: forward(p, x[None]), params)[1](g[None])[0])(x, slopes)
    moments = f(params, x, key=key, state=state)[2]
    for name in trained:
        left, right = (np.asarray(bases[name][part]) for part in ("inputs", "outputs"))
        for basis, factor in ((left, factors[name].inputs[0]), (right, factors[name].outputs[0])):  # its own
            diagonal = basis.T @ np.asarray(factor) @ basis / np.max(factor)
            assert np.ptp(np.diagonal(diagonal)) > 0.1
            np.testing.assert_allclose(diagonal, np.diag(np.diagonal(diagonal)), rtol=0, atol=1e-12)
        expected = np.mean((left.T @ np.asarray(each[name]["kernel"]) @ right) ** 2, axis=0)
        np.testing.assert_allclose(moments[name].moments[0], expected, rtol=0, atol=1e-12 * expected.max())


def test_and_where_it_is_of_more_its_moments_are_refused():
    params, capture, _, tx, make, _ = two_of_three()
    state, x = tx.init(params), jnp.ones((N, 4))
    _, grads, factors = make(capture)(params, x, key=jax.random.key(2), state=state)  # 3 layers of a stack of 4: fits
    with pytest.raises(ValueError, match=r"second moments of \['a'\].*capture\._replace"):
        tx.update(grads, state, params, factors=factors)
