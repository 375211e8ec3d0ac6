"""Factors by their definition: from dense Jacobians of one layer, for products of all kinds, both ways of sharing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond import layers
from precond.layers import linen

F64 = {"param_dtype": jnp.float64}

KINDS = {
    "dense": (nn.Dense(3, **F64), (4, 5, 6)),
    "dense_without_bias": (nn.Dense(3, use_bias=False, **F64), (4, 5, 6)),
    "to_heads": (nn.DenseGeneral((2, 3), **F64), (4, 5, 6)),
    "from_heads": (nn.DenseGeneral(3, axis=(-2, -1), **F64), (4, 5, 2, 6)),
    "experts": (nn.Einsum((5, 6, 3), "nei,eio->neo", **F64), (4, 5, 6)),
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def capture_of(model, x, forward=lambda y: y, **kwargs):
    """The layer, its parameters, and its factors for the Gaussian likelihood of what `forward` makes of its output."""
    params = jax.tree.map(lambda p: normal(*p.shape, seed=1), jax.jit(model.init)(jax.random.key(0), x)["params"])
    capture = linen.capture(model, {"params": params}, x, **kwargs)
    f = layers.value_grad_factors(
        lambda params, x: forward(capture.apply({"params": params}, x)),
        lambda outputs, x: jnp.mean(outputs),
        capture,
        fisher=layers.exact(layers.gaussian()),
    )
    return capture.layers[""], params, jax.jit(f)(params, x)[2][""]


QUICK = [
    ("dense", layers.reduce),
    *((kind, layers.expand) for kind in ("to_heads", "experts")),
]
EVERY = [(kind, sharing) for kind in KINDS for sharing in (layers.expand, layers.reduce)]
CASES = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in EVERY]


@pytest.mark.parametrize(("kind", "sharing"), CASES)
def test_the_factors_are_moments_of_jacobians(kind, sharing):
    model, shape = KINDS[kind]
    x = normal(*shape)
    out = jax.eval_shape(model.init_with_output, jax.random.key(0), x)[0]
    weights = normal(*out.shape[1:], seed=2)  # what is behind the layer: its Fisher matrix is that of these
    layer, params, (a, g, _) = capture_of(model, x, lambda y: y * weights, sharing=sharing)
    groups, rows, columns = layer.size

    def outputs(params):
        return model.apply({"params": params}, x).reshape(len(x), -1, groups, columns)

    # One column of each group's Jacobian by its own matrix is the layer's input at each position.
    jacobian = jax.jit(jax.jacobian(lambda p: outputs(p)[..., 0]))(params)
    flat = {name: j.reshape(-1, *params[name].shape) for name, j in jacobian.items()}
    matrices = jax.jit(jax.vmap(lambda p: layer.matrix(p["kernel"], p.get("bias"))))(flat)[..., 0]
    matrices = np.asarray(matrices).reshape(len(x), -1, groups, groups, rows)
    inputs = np.stack([matrices[:, :, r, r] for r in range(groups)], axis=2)
    behind = np.asarray(weights).reshape(-1, groups, columns)
    if sharing is layers.reduce:
        inputs = inputs.mean(1, keepdims=True)
    positions = inputs.shape[0] * inputs.shape[1]
    np.testing.assert_allclose(a, np.einsum("ntri,ntrj->rij", inputs, inputs) / positions, atol=1e-12)
    # The exact Fisher matrix sums over outputs: one position each, so that summing over positions changes nothing.
    np.testing.assert_allclose(g, [np.diag((behind[:, r] ** 2).sum(0)) for r in range(groups)], atol=1e-12)


def test_an_embedding_has_the_frequencies_of_its_rows():
    x = jnp.asarray([[0, 2, 2], [5, 2, 0]])
    layer, _, (a, g, _) = capture_of(nn.Embed(7, 4, **F64), x)
    assert layer.diagonal
    np.testing.assert_allclose(a, np.asarray([[2, 0, 3, 0, 0, 1, 0]]) / 6, atol=1e-15)
    np.testing.assert_allclose(g, 3 * np.eye(4)[None], atol=1e-14)


def test_padding_is_no_row_of_an_embedding():
    x, valid = jnp.asarray([[0, 2, 2], [5, 2, 0]]), jnp.asarray([[True, True, False], [True, False, False]])
    params = {"embedding": normal(7, 4)}
    capture = layers.explicit({"": layers.Embed(7)}, params)
    f = layers.factors_alone(
        lambda params: capture.apply("", params, params["embedding"][x], x, valid) * valid[..., None],
        capture,
        fisher=layers.exact(layers.gaussian()),
        examples=3,
    )
    a, g, _ = jax.jit(f)(params)[""]
    np.testing.assert_allclose(a, np.asarray([[1, 0, 1, 0, 0, 1, 0]]) / 3, atol=1e-15)
    np.testing.assert_allclose(g, np.eye(4)[None], atol=1e-14)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_has_the_fisher_matrix_of_each_channel(norm):
    model, x, weights = norm(**F64), normal(4, 5, 3), normal(5, 3, seed=2)
    layer, params, (a, g, _) = capture_of(model, x, lambda y: y * weights)
    assert g is None
    jacobian = jax.jit(jax.jacobian(lambda p: model.apply({"params": p}, x) * weights))(params)
    # [n, t, o, channel, scale or bias]
    both = np.stack([np.asarray(jacobian[n]) for n in ("scale", "bias") if n in params], axis=-1)
    expected = np.einsum("ntoci,ntocj->cij", both, both) / len(x)
    np.testing.assert_allclose(a, expected, atol=1e-12)
    assert layer.size == (3, both.shape[-1], 1)


def test_positions_that_are_padding_count_for_nothing():
    """Two sequences padded with rubbish, against the tokens alone."""
    x, valid = normal(2, 4, 3), jnp.asarray([[True, True, True, False], [True, False, False, False]])
    model = nn.Dense(2, **F64)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    capture = linen.capture(model, {"params": params}, x)
    f = layers.value_grad_factors(
        lambda params, x: capture.apply({"params": params}, x, valid=valid) * valid[..., None],
        lambda outputs, x: jnp.sum(outputs) / 4,
        capture,
        fisher=layers.exact(layers.gaussian()),
        examples=4,
    )
    a, g, _ = jax.jit(f)(params, x)[2][""]
    tokens = np.concatenate([np.asarray(x)[np.asarray(valid)], np.ones((4, 1))], axis=1)
    np.testing.assert_allclose(a[0], tokens.T @ tokens / 4, atol=1e-14)
    np.testing.assert_allclose(g[0], np.eye(2), atol=1e-14)


def test_reduce_means_over_the_positions_that_are_no_padding():
    x, valid = normal(2, 4, 3), jnp.asarray([[True, True, True, False], [False, False, False, False]])
    a, _, weights = layers.reduce(x[:, :, None], x[:, :, None], valid)
    np.testing.assert_allclose(a[0, 0, 0], np.asarray(x)[0, :3].mean(0), atol=1e-15)
    assert weights.tolist() == [[1.0], [0.0]]


def test_a_mask_that_fits_no_layer_is_an_error():
    model, x = nn.Dense(2, **F64), normal(2, 4, 3)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    capture = linen.capture(model, variables, x)
    with pytest.raises(ValueError, match=r"valid of shape \(4, 2\)"):
        capture.apply({"params": capture.attach(variables["params"])}, x, valid=jnp.ones((4, 2), bool))


def test_a_mask_of_padding_passes_through_a_model_with_norms():
    """The norm's own factor takes all cotangents, as every G does; those of padding are zero."""
    x, valid = normal(2, 4, 3), jnp.asarray([[True, True, True, False], [True, False, False, False]])
    model = nn.Sequential([nn.Dense(3, **F64), nn.LayerNorm(**F64)])
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    capture = linen.capture(model, {"params": params}, x)
    made = [
        layers.factors_alone(
            lambda params, x, mask=mask: capture.apply({"params": params}, x, valid=mask) * valid[..., None],
            capture,
            fisher=layers.exact(layers.gaussian()),
            examples=4,
        )
        for mask in (valid, None)
    ]
    masked, plain = (jax.jit(f)(params, x) for f in made)
    np.testing.assert_array_equal(masked["layers_1"].inputs, plain["layers_1"].inputs)
    tokens = np.concatenate([np.asarray(x)[np.asarray(valid)], np.ones((4, 1))], axis=1)
    np.testing.assert_allclose(masked["layers_0"].inputs[0], tokens.T @ tokens / 4, atol=1e-14)


def test_a_mask_of_fewer_axes_than_the_positions_holds_for_all_of_them():
    x, valid = normal(2, 4, 5, 3), jnp.asarray([[True, True, True, False], [True, False, False, False]])
    model = nn.Dense(2, **F64)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    capture = linen.capture(model, {"params": params}, x)
    f = layers.factors_alone(
        lambda params, x: capture.apply({"params": params}, x, valid=valid),
        capture,
        fisher=layers.exact(layers.gaussian()),
    )
    rows = np.asarray(x)[np.asarray(valid)].reshape(-1, 3)
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    np.testing.assert_allclose(jax.jit(f)(params, x)[""].inputs[0], rows.T @ rows / len(rows), atol=1e-14)


def test_a_mask_of_groups_is_an_error():
    model, x = nn.Einsum((5, 6, 3), "nei,eio->neo", **F64), normal(4, 5, 6)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    capture = linen.capture(model, variables, x)
    f = layers.factors_alone(
        lambda params: capture.apply({"params": params}, x, valid=jnp.ones((4, 5), bool)),
        capture,
        fisher=layers.exact(layers.gaussian()),
    )
    with pytest.raises(ValueError, match="axes number groups"):
        f(variables["params"])
