"""Models that are called with random streams, and models that average over the devices of their training."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import precond
from precond import layers
from precond.layers import linen
from precond.layers import nnx as front

X = np.random.default_rng(0).standard_normal((8, 3))
Y = np.sin(X[:, :2])
F64 = {"param_dtype": jnp.float64, "dtype": jnp.float64}


class Dropped(nnx.Module):
    """A layer, and dropout by a stream that the caller gives."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(3, 16, rngs=rngs, **F64), nnx.Linear(16, 2, rngs=rngs, **F64)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs, scale=1.0):
        return self.last(scale * self.dropout(nnx.tanh(self.first(x)), rngs=rngs))


class Helped(nnx.Module):
    """A layer behind another module, which the caller gives in a list."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(4, 2, rngs=rngs, **F64)

    def __call__(self, x, helpers):
        return self.layer(helpers[0](x))


def squares(outputs, *_):
    return jnp.mean(jnp.sum((outputs - Y) ** 2, axis=-1))


@pytest.mark.parametrize("named", [False, True], ids=["positional", "keyword"])
def test_a_model_that_is_called_with_streams(named):
    model, rngs = Dropped(nnx.Rngs(0)), nnx.Rngs(7)
    given = ((), {"rngs": rngs}) if named else ((rngs,), {})
    capture = front.capture(model, X, *given[0], **given[1])
    assert set(capture.layers) == {"first", "last"}
    _, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, x):
        return capture.apply(params, rest, x, *given[0], **given[1])[0]

    run = layers.value_grad_factors(forward, squares, capture, fisher=layers.exact(layers.gaussian()))
    value, grads, factors = jax.jit(run)(params, X)
    assert int(rngs.default.count[...]) == 0  # a copy moved on
    # The definition: the model itself, called with a stream in the same place.
    hidden = model.dropout(nnx.tanh(model.first(X)), rngs=nnx.Rngs(7))
    np.testing.assert_allclose(value, squares(model.last(hidden)), rtol=1e-12)
    kept = jnp.concatenate([hidden, jnp.ones((8, 1))], axis=1)
    np.testing.assert_allclose(factors["last"].inputs[0], kept.T @ kept / 8, atol=1e-12)
    g = jnp.where(hidden != 0, 2 * (1 - (hidden / 2) ** 2), 0)[:, :, None] * model.last.kernel[...]
    np.testing.assert_allclose(factors["first"].outputs[0], jnp.einsum("nio,njo->ij", g, g) / 8, atol=1e-12)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(grads))


def test_streams_that_are_traced_give_new_masks():
    model = Dropped(nnx.Rngs(0))
    capture = front.capture(model, X, nnx.Rngs(7))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    run = layers.value_grad_factors(
        lambda params, rngs: capture.apply(params, rest, X, rngs)[0],
        squares,
        capture,
        fisher=layers.sampled(layers.gaussian()),
    )

    @nnx.jit
    def step(rngs, key):
        return run(params, rngs.fork(), key=key)[0]

    rngs = nnx.Rngs(1)
    first, second = (float(step(rngs, jax.random.key(0))) for _ in range(2))
    assert first != second


def test_modules_and_settings_among_the_arguments():
    rngs = nnx.Rngs(0)
    model, helper = Helped(rngs), nnx.BatchNorm(4, rngs=rngs, use_running_average=False)
    x = jnp.asarray(np.concatenate([X, X[:, :1]], axis=1), jnp.float32)
    capture = front.capture(model, x, [helper])
    _, params, rest = nnx.split(model, nnx.Param, ...)
    before = helper.mean[...]
    out, _ = capture.apply(capture.attach(nnx.to_pure_dict(params)), rest, x, helpers=[helper])
    np.testing.assert_array_equal(helper.mean[...], before)
    np.testing.assert_allclose(out, model(x, [helper]), rtol=1e-6)


class Normed(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name, param_dtype=jnp.float64)
        return nn.Dense(2, **F64)(nn.tanh(norm(nn.Dense(4, **F64)(x))))


class NormedNNX(nnx.Module):
    def __init__(self, axis_name):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(3, 4, rngs=rngs, **F64), nnx.Linear(4, 2, rngs=rngs, **F64)
        self.norm = nnx.BatchNorm(4, rngs=rngs, use_running_average=False, axis_name=axis_name)

    def __call__(self, x):
        return self.last(nnx.tanh(self.norm(self.first(x).astype(jnp.float32))))


def of_linen(axis, **kwargs):
    """The parameters of a model with BatchNorm, its capture, and what it computes."""
    model = Normed(axis)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    capture = linen.capture(model, variables, X, mutable=["batch_stats"], **kwargs)
    stats = {"batch_stats": variables["batch_stats"]}

    def forward(params, x, y):
        return capture.apply({"params": params, **stats}, x, mutable=["batch_stats"])[0]

    return variables["params"], capture, forward


def of_nnx(axis, **kwargs):
    model = NormedNNX(axis)
    capture = front.capture(model, X, **kwargs)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    return params, capture, lambda params, x, y: capture.apply(params, rest, x)[0]


FRONTS = pytest.mark.parametrize("made", [of_linen, of_nnx], ids=["linen", "nnx"])


@FRONTS
def test_an_axis_that_is_not_bound_is_an_error_that_says_what_to_write(made):
    with pytest.raises(ValueError, match=r"uses the axis 'batch'.*Give capture\(\) its name: axis_name='batch'"):
        made("batch")


@pytest.mark.parametrize(
    ("made", "mapped"),
    [(of_linen, jax.pmap), (of_nnx, jax.vmap)],
    ids=["linen", "nnx"],
)
@pytest.mark.slow
def test_training_with_a_norm_over_devices_is_that_of_the_whole_batch(made, mapped):
    def step_of(params, capture, forward, mean):
        tx = precond.kfac(0.3, capture.layers, damping=1e-2)
        run = layers.value_grad_factors(
            forward,
            lambda f, x, y: jnp.mean(jnp.sum((f - y) ** 2, -1)),
            capture,
            fisher=layers.exact(layers.gaussian()),
        )

        def step(params, state, x, y):
            _, grads, factors = mean(run(params, x, y))
            updates, state = tx.update(grads, state, params, factors=factors)
            return optax.apply_updates(params, updates), state, factors

        return step, (params, tx.init(params))

    step, one = step_of(*made(None), lambda tree: tree)
    parted, many = step_of(
        *made("batch", axis_name=("other", "batch")), functools.partial(jax.lax.pmean, axis_name="batch")
    )
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *x.shape)), many)
    step, parted = jax.jit(step), mapped(parted, axis_name="batch")
    for _ in range(3):
        *one, whole = step(*one, X, Y)
        *many, parts = parted(*many, X.reshape(2, 4, 3), Y.reshape(2, 4, 2))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], atol=2e-6), whole, parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[1], atol=2e-6), one[0], many[0])
