"""The nnx front end: models of many kinds, and the factors of the linen model with the same parameters."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import precond
from precond import layers
from precond.blocks import Probe, path_name
from precond.layers import linen
from precond.layers import nnx as front

F64 = {"param_dtype": jnp.float64, "dtype": jnp.float64}
Linear = functools.partial(nnx.Linear, **F64)
Conv = functools.partial(nnx.Conv, **F64)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


class Chain(nnx.Module):
    """Modules and functions in a row."""

    def __init__(self, *parts):
        self.parts = nnx.List(parts)

    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Block(nnx.Module):
    """Of a pre-norm transformer."""

    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(4, rngs=rngs, **F64) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs, **F64)
        self.up, self.down = Linear(4, 6, rngs=rngs), Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Stack(nnx.Module):
    """Two blocks whose parameters are stacked, and a scan over them."""

    def __init__(self, rngs, remat=False):
        self.remat = remat

        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return Block(rngs)

        self.blocks = make(rngs)
        self.head = Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        def one(x, block):
            return block(x)

        over = nnx.scan(nnx.remat(one) if self.remat else one, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(over(x, self.blocks))


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.table = nnx.Embed(7, 4, rngs=rngs, **F64)
        self.middle = Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.table.attend(nnx.tanh(self.middle(self.table(x))))


class Shared(nnx.Module):
    """A layer that is called twice."""

    def __init__(self, rngs):
        self.layer = Linear(6, 6, rngs=rngs)

    def __call__(self, x):
        return self.layer(nnx.tanh(self.layer(x)))


class Residual(nnx.Module):
    """Of a residual network, in float32, the type of a batch norm's averages."""

    def __init__(self, rngs, stride):
        f32 = {"dtype": jnp.float32, "rngs": rngs}
        self.convs = nnx.List(nnx.Conv(4, 4, (3, 3), strides=s, use_bias=False, **f32) for s in (stride, 1))
        self.norms = nnx.List(nnx.BatchNorm(4, use_running_average=False, **f32) for _ in range(2))
        self.skip = nnx.Conv(4, 4, (1, 1), strides=stride, use_bias=False, **f32)

    def __call__(self, x):
        y = nnx.relu(self.norms[0](self.convs[0](x)))
        return nnx.relu(self.norms[1](self.convs[1](y)) + self.skip(x))


class Ensemble(nnx.Module):
    """Three members whose parameters are stacked, and a map over them."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs):
            return Linear(6, 4, rngs=rngs)

        self.members = make(rngs)

    def __call__(self, x):
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None), out_axes=1)(self.members, x)


class Own(nnx.Linear):
    """A subclass may do anything."""


class Fixed(nnx.Module):
    """Weights that are no parameters, a bias that is none, and weights that two layers share."""

    def __init__(self, rngs):
        self.fixed, self.shifted, self.first, self.second = (Linear(4, 4, rngs=rngs) for _ in range(4))
        for layer, names in ((self.fixed, ("kernel", "bias")), (self.shifted, ("bias",))):
            for name in names:
                setattr(layer, name, nnx.Cache(getattr(layer, name)[...]))
        self.second.kernel = self.first.kernel

    def __call__(self, x):
        return self.second(nnx.tanh(self.first(nnx.tanh(self.shifted(inputs=self.fixed(x))))))


class Across(nnx.Module):
    """Layers whose parameters are stacked along their second axis."""

    def __init__(self, rngs):
        over = nnx.StateAxes({nnx.Param: 1, ...: 0})
        self.layers = nnx.split_rngs(splits=2)(nnx.vmap(lambda r: Linear(4, 4, rngs=r), out_axes=over))(rngs)

    def __call__(self, x):
        over = (nnx.Carry, nnx.StateAxes({nnx.Param: 1, ...: 0}))
        return nnx.scan(lambda x, layer: nnx.tanh(layer(x)), in_axes=over, out_axes=nnx.Carry)(x, self.layers)


class Spectral(nnx.Module):
    def __init__(self, rngs):
        self.normed = nnx.SpectralNorm(nnx.Linear(6, 3, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.normed(x.astype(jnp.float32), update_stats=True)


def numbers(x):
    """A random key as numbers."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def flat(x):
    return x.reshape(x.shape[0], -1)


def mixed(rngs):
    parts = [nnx.Linear(6, 5, dtype=jnp.bfloat16, rngs=rngs), nnx.gelu, nnx.Linear(5, 3, dtype=jnp.bfloat16, rngs=rngs)]
    return Chain(*parts, lambda x: x.astype(jnp.float32))


def general(rngs):
    wide = nnx.LinearGeneral(4, (2, 3), rngs=rngs, **F64)
    return Chain(wide, nnx.tanh, nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), rngs=rngs, **F64))


IMAGE, SEQUENCE, TOKENS = (3, 6, 5, 4), (3, 5, 4), (3, 5)
NORMED = nnx.WeightNorm(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
# Its scales are parameters in some versions of Flax, and other variables in others.
SCALES = {"scales/('kernel',)": "no rule"} if "scales" in nnx.state(NORMED, nnx.Param) else {}

MODELS = {
    "mlp": (lambda r: Chain(Linear(6, 5, rngs=r), nnx.tanh, Linear(5, 3, use_bias=False, rngs=r)), (4, 6), {}),
    "cnn": (lambda r: Chain(Conv(4, 4, (3, 3), strides=2, rngs=r), nnx.relu, flat, Linear(36, 3, rngs=r)), IMAGE, {}),
    "dilated": (lambda r: Conv(4, 3, (3, 2), kernel_dilation=(2, 1), padding="CIRCULAR", rngs=r), IMAGE, {}),
    "grouped": (lambda r: Conv(4, 6, (3, 3), feature_group_count=2, rngs=r), IMAGE, {}),
    "transposed": (lambda r: nnx.ConvTranspose(4, 3, (3, 3), strides=(2, 2), rngs=r, **F64), IMAGE, {}),
    "depthwise": (lambda r: Conv(4, 8, (2, 3), feature_group_count=4, use_bias=False, rngs=r), IMAGE, {}),
    "causal": (lambda r: Chain(Conv(4, 3, (3,), padding="CAUSAL", kernel_dilation=2, rngs=r), nnx.tanh), SEQUENCE, {}),
    "resnet": (lambda r: Chain(*(Residual(r, stride) for stride in (1, 2))), IMAGE, {}),
    "transformer": (Block, SEQUENCE, {}),
    "scanned": (Stack, SEQUENCE, {}),
    "rematerialised": (lambda r: Stack(r, remat=True), SEQUENCE, {}),
    "gru": (lambda r: nnx.RNN(nnx.GRUCell(4, 5, rngs=r, **F64)), SEQUENCE, {}),
    "lstm": (lambda r: nnx.RNN(nnx.LSTMCell(4, 5, rngs=r, **F64)), SEQUENCE, {}),
    "shared": (Shared, (4, 6), {}),
    "ensemble": (Ensemble, (4, 6), {}),
    "general": (general, SEQUENCE, {}),
    "mixed_precision": (mixed, (4, 6), {}),
    "group_norm": (lambda r: nnx.GroupNorm(4, 2, rngs=r, **F64), IMAGE, {}),
    "weight_norm": (
        lambda r: nnx.WeightNorm(Linear(6, 3, rngs=r), rngs=r),
        (4, 6),
        {"layer_instance/kernel": "miss", "layer_instance/bias": "miss", **SCALES},
    ),
    "rms_norm": (lambda r: Chain(nnx.RMSNorm(4, rngs=r, **F64), Linear(4, 3, rngs=r)), SEQUENCE, {}),
    "einsum": (lambda r: nnx.Einsum("btd,hdk->bthk", (2, 4, 3), (2, 3), rngs=r, **F64), SEQUENCE, {}),
    "embedding": (lambda r: Chain(nnx.Embed(7, 4, rngs=r, **F64), Linear(4, 3, rngs=r)), TOKENS, {}),
    "tied": (Tied, TOKENS, {"table/embedding": "miss"}),
    "dropout": (
        lambda r: Chain(Linear(6, 5, rngs=r), nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=1)), Linear(5, 3, rngs=r)),
        (4, 6),
        {},
    ),
    "fixed": (
        Fixed,
        (3, 4),
        {
            "first/kernel": "miss",
            "first/bias": "miss",
            "second/bias": "those of another one, or no parameters",
        },
    ),
    "stacked_over_another_axis": (Across, (3, 4), {}),
    "spectral_norm": (
        Spectral,
        (4, 6),
        {"normed/layer_instance/kernel": "inside SpectralNorm", "normed/layer_instance/bias": "inside SpectralNorm"},
    ),
    "narrow_parameters": (
        lambda r: nnx.Linear(6, 3, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=r),
        (4, 6),
        {},
    ),
    "lora": (
        lambda r: nnx.LoRA(4, 2, 4, base_module=Linear(4, 4, rngs=r), rngs=r, **F64),
        (3, 4),
        {"lora_a": "no rule for LoRA", "lora_b": "no rule for LoRA"},
    ),
    "subclass": (lambda r: Own(6, 3, rngs=r, **F64), (4, 6), {"kernel": "no rule for Own", "bias": "no rule for Own"}),
}


QUICK = (
    "mlp",
    "grouped",
    "stacked_over_another_axis",
    "rematerialised",
    "tied",
    "subclass",
    "ensemble",
    "weight_norm",
    "fixed",
    "spectral_norm",
)
ROUNDING = {"resnet": 1e-5, "mixed_precision": 5e-3, "narrow_parameters": 2e-2, "spectral_norm": 1e-5}
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_has_factors_or_a_reason(name):
    make, shape, expected = MODELS[name]
    model = make(nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 7, shape) if shape == TOKENS else rng.standard_normal(shape))
    rounding = ROUNDING.get(name, 1e-12)
    capture = front.capture(model, x, allow_uncovered=[""], tolerance=rounding)
    missing = capture.coverage.missing
    assert set(missing) == set(expected)
    assert all(reason in missing[path] for path, reason in expected.items())
    _, params, rest = nnx.split(model, nnx.Param, ...)
    out, after = capture.apply(capture.attach(params), rest, x)
    expected = model(x)  # which updates its statistics, as the copy did
    np.testing.assert_allclose(out, expected, rtol=rounding, atol=rounding)
    own = nnx.split(model, nnx.Param, ...)[2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(numbers(a), numbers(b), rtol=rounding), after, own)


def cross_entropy(logits, rest, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


def test_the_factors_are_those_of_the_linen_model():
    model = Chain(Linear(6, 5, rngs=nnx.Rngs(0)), nnx.tanh, Linear(5, 3, rngs=nnx.Rngs(1)))
    x, y = normal(8, 6), jnp.arange(8) % 3
    capture = front.capture(model, x)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    f = layers.value_grad_factors(
        lambda params, rest, x, y: capture.apply(params, rest, x),
        cross_entropy,
        capture,
        fisher=layers.exact(layers.categorical()),
        has_aux=True,
    )
    (value, _), grads, factors = jax.jit(f)(params, rest, x, y)

    module = nn.Sequential([nn.Dense(5, param_dtype=jnp.float64), nn.tanh, nn.Dense(3, param_dtype=jnp.float64)])
    pure = nnx.to_pure_dict(params)["parts"]
    twin = {"layers_0": pure[0], "layers_2": pure[2]}
    other = linen.capture(module, {"params": twin}, x)
    g = layers.value_grad_factors(
        lambda params, rest, x, y: other.apply({"params": params}, x),
        cross_entropy,
        other,
        fisher=layers.exact(layers.categorical()),
    )
    expected, slopes, wanted = jax.jit(g)(twin, None, x, y)
    np.testing.assert_allclose(value, expected)
    for mine, theirs in (("parts/0", "layers_0"), ("parts/2", "layers_2")):
        chex.assert_trees_all_close(factors[mine], wanted[theirs], rtol=1e-7, atol=1e-14)
        own = nnx.to_pure_dict(grads)["parts"][int(mine[-1])]
        chex.assert_trees_all_close(own, slopes[theirs], rtol=1e-7, atol=1e-14)


@pytest.mark.slow
def test_a_scanned_model_with_probes_of_its_own_has_the_same_factors():
    model, x = Stack(nnx.Rngs(0), remat=True), normal(*SEQUENCE)
    capture = front.capture(model, x)
    f = layers.value_grad_factors(
        lambda params, rest: capture.apply(params, rest, x),
        lambda outputs, rest: jnp.mean(jnp.sum(outputs**2, (1, 2))),
        capture,
        fisher=layers.empirical(),
        has_aux=True,
    )
    _, params, rest = nnx.split(model, nnx.Param, ...)
    expected = jax.jit(f)(params, rest)[2]
    tapped = front.attached(model, capture)
    grads = nnx.jit(nnx.grad(lambda tapped: jnp.mean(jnp.sum(tapped(x) ** 2, (1, 2)))))(tapped)
    is_probe = lambda x: isinstance(x, Probe)  # noqa: E731
    leaves = jax.tree_util.tree_flatten_with_path(grads, is_leaf=is_probe)[0]
    found = {path_name(path).rpartition("/")[0]: p.factors(1 / p.sums["examples"]) for path, p in leaves if is_probe(p)}
    assert set(found) == set(expected)
    chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-13)


def training():
    """A model, its capture, and what makes value, gradients and factors."""
    model = Chain(Linear(6, 5, rngs=nnx.Rngs(0)), nnx.tanh, Linear(5, 3, rngs=nnx.Rngs(1)))
    x, y = normal(32, 6), jnp.arange(32) % 3
    capture = front.capture(model, x)
    f = layers.value_grad_factors(
        lambda params, rest, x, y: capture.apply(params, rest, x),
        cross_entropy,
        capture,
        fisher=layers.sampled(layers.categorical()),
        has_aux=True,
    )
    return model, capture, lambda params, rest, **more: f(params, rest, x, y, **more)


@pytest.mark.slow
def test_an_nnx_optimizer_trains_with_the_factors():
    model, capture, f = training()
    optimizer = nnx.Optimizer(model, precond.kfac(0.3, capture.layers, bound=1e-2, refresh=1), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, key):
        _, params, rest = nnx.split(model, nnx.Param, ...)
        (value, rest), grads, factors = f(params, rest, key=key)
        nnx.update(model, rest)
        optimizer.update(model, grads, factors=factors)
        return value

    losses = [step(model, optimizer, jax.random.key(i)) for i in range(15)]
    assert losses[-1] < 0.6 * losses[0]


def test_and_its_state_has_the_bases_that_ekfac_measures_in():
    """In the optimizer's state every array stands in a variable of nnx."""
    model, capture, f = training()
    tx = precond.ekfac(0.3, capture.layers, bound=1e-2, refresh=1)
    _, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer, state = nnx.Optimizer(model, tx, wrt=nnx.Param), tx.init(params)

    @nnx.jit
    def step(model, optimizer, key):
        _, params, rest = nnx.split(model, nnx.Param, ...)
        _, grads, factors = f(params, rest, key=key, state=optimizer.opt_state)
        optimizer.update(model, grads, factors=factors)

    @jax.jit
    def plain(params, state, key):
        _, grads, factors = f(params, rest, key=key, state=state)
        updates, state = tx.update(grads, state, params, factors=factors)
        return optax.apply_updates(params, updates), state

    start = jax.tree.map(np.asarray, params)
    for key in jax.random.split(jax.random.key(0), 4):
        step(model, optimizer, key)
        params, state = plain(params, state, key)
    actual = nnx.state(model, nnx.Param)
    chex.assert_trees_all_close(actual, params, rtol=0, atol=1e-13)
    assert min(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), actual, start))) > 1e-3


class Token(nnx.Module):
    """A layer of tokens, compiled by itself, behind a method of another name."""

    def __init__(self, rngs):
        self.layer = Linear(3, 2, rngs=rngs)

    def encode(self, x):
        return compiled(self.layer, x)


compiled = nnx.jit(lambda layer, x: layer(x))


def test_positions_that_are_padding_count_for_nothing():
    x, model = normal(2, 4, 3), Token(nnx.Rngs(0))
    capture = front.capture(model, x, method=Token.encode)
    _, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, valid):
        out, after = capture.apply(params, rest, x, valid=valid)
        return out * valid[..., None], after

    fisher = layers.exact(layers.gaussian())
    f = jax.jit(layers.factors_alone(forward, capture, fisher=fisher, examples=4, has_aux=True))
    first = jnp.asarray([[True, True, True, False], [True, False, False, False]])
    for valid in (first, ~first):
        a, g, _ = f(params, valid)["layer"]
        tokens = np.concatenate([np.asarray(x)[np.asarray(valid)], np.ones((4, 1))], axis=1)
        np.testing.assert_allclose(a[0], tokens.T @ tokens / 4, atol=1e-14)
        np.testing.assert_allclose(g[0], np.eye(2), atol=1e-14)
    with pytest.raises(ValueError, match=r"valid of shape \(4, 2\)"):
        capture.apply(capture.attach(params), rest, x, valid=first.T)
