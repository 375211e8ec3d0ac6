"""Networks of many kinds, with an example input and the parameters that K-FAC has no factors for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["LINEN", "Model"]

F64 = {"param_dtype": jnp.float64}
Dense = functools.partial(nn.Dense, **F64)
Conv = functools.partial(nn.Conv, **F64)


class Model(NamedTuple):
    """One row of the matrix.

    Attributes:
      name: the test's id.
      make: the module.
      shape: of its input; integers below 7 where it starts with an embedding.
      missing: of each parameter without factors a part of its path, and of the reason given.
      kwargs: for `apply`.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    missing: dict[str, str] = {}  # noqa: RUF012
    kwargs: dict[str, Any] = {}  # noqa: RUF012

    def input(self):
        rng = np.random.default_rng(0)
        if self.name.startswith(("embed", "tied")):
            return jnp.asarray(rng.integers(0, 7, self.shape))
        return jnp.asarray(rng.standard_normal(self.shape))


class Function(nn.Module):
    """A compact module from a function."""

    run: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x):
        return self.run(x)


def model(run):
    return lambda: Function(run)


def mlp(x):
    return Dense(3)(nn.tanh(Dense(5)(x)))


def shared(x):
    layer = Dense(4)
    return Dense(3)(layer(nn.tanh(layer(x))))


def cnn(x, **kwargs):
    x = nn.relu(Conv(4, (3, 3), **kwargs)(x))
    return Dense(3)(x.reshape(x.shape[0], -1))


def conv1d(x, **kwargs):
    return Dense(3)(nn.tanh(Conv(4, (3,), **kwargs)(x)).mean(1))


def conv3d(x):
    return Dense(3)(nn.tanh(Conv(4, (2, 3, 2))(x)).reshape(x.shape[0], -1))


def transposed(x, **kwargs):
    x = nn.ConvTranspose(4, (3, 3), **({"strides": (2, 2)} | kwargs), **F64)(x)
    return Dense(3)(nn.tanh(x).reshape(x.shape[0], -1))


def resnet(x):
    norm = functools.partial(nn.BatchNorm, use_running_average=False, **F64)
    for stride in (1, 2):
        y = nn.relu(norm()(Conv(4, (3, 3), strides=stride, use_bias=False)(x)))
        y = norm()(Conv(4, (3, 3), use_bias=False)(y))
        x = nn.relu(y + Conv(4, (1, 1), strides=stride, use_bias=False)(x))
    return Dense(3)(x.mean((1, 2)))


class Block(nn.Module):
    """Pre-norm, to be scanned."""

    norm: Any = nn.LayerNorm

    @nn.compact
    def __call__(self, x, _=None):
        y = self.norm(**F64)(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, dtype=jnp.float64, **F64)(y)
        y = self.norm(**F64)(x)
        return x + Dense(x.shape[-1])(nn.gelu(Dense(6)(y))), None


def transformer(x, block=Block, **kwargs):
    for _ in range(2):
        x, _ = block(**kwargs)(x)
    return Dense(3)(x)


def scanned(x, block=Block):
    stack = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    x, _ = stack()(x, None)
    return Dense(3)(x.mean(1))


def rematerialised(x):
    return scanned(x, nn.remat(Block, prevent_cse=False))


def positions(x):
    return Dense(3)(x + Position()(x))


class Position(nn.Module):
    """Parameters that no layer uses."""

    @nn.compact
    def __call__(self, x):
        return self.param("table", nn.initializers.normal(), x.shape[1:], jnp.float64)


class MyDense(nn.Dense):
    """A subclass may do anything."""


def ensemble(x):
    over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    members = nn.vmap(Dense, in_axes=None, out_axes=1, axis_size=3, **over)
    return members(4)(x)


def mapped(x):
    """One layer over an axis of its input, by a map that shares it."""
    layer = nn.vmap(Dense, in_axes=1, out_axes=1, variable_axes={"params": None}, split_rngs={"params": False})
    return Dense(3)(nn.tanh(layer(4)(x)))


def tied(x):
    table = nn.Embed(7, 4, **F64)
    return table.attend(nn.tanh(Dense(4)(table(x))))


def einsum(x):
    x = nn.Einsum((2, 4, 3), "...d,hdk->...hk", **F64)(x)
    return nn.Einsum((2, 3, 5), "...hk,hko->...ho", use_bias=False, **F64)(nn.tanh(x))


def general(x):
    x = nn.DenseGeneral((2, 3), axis=(-2, -1), **F64)(x)
    return nn.DenseGeneral(4, axis=(1, 2), **F64)(nn.tanh(x))


def experts(x):
    return nn.DenseGeneral(4, axis=-1, batch_dims=(0,), **F64)(x)


def normed(norm):
    def run(x):
        return Dense(3)(nn.tanh(norm(**F64)(Dense(4)(x))))

    return run


def mixed(x):
    return nn.Dense(3, dtype=jnp.bfloat16)(nn.gelu(nn.Dense(5, dtype=jnp.bfloat16)(x))).astype(jnp.float32)


def dropped(x):
    return Dense(3)(nn.Dropout(0.5, deterministic=False, rng_collection="dropout")(nn.tanh(Dense(5)(x))))


def narrow(x):
    """Parameters in bfloat16, too."""
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    return nn.Dense(3, **half)(nn.tanh(nn.Dense(5, **half)(x)))


def batches(x):
    """A layer that sees two batches of different size."""
    layer = Dense(4)
    return layer(x), layer(x[:1] ** 2)


def frozen(x):
    """A layer that no gradient reaches, and one whose weights none reaches."""
    stop = functools.partial(jax.tree.map, jax.lax.stop_gradient)
    fixed = nn.map_variables(nn.Dense, "params", trans_in_fn=stop, init=True)
    return Dense(3)(fixed(4, **F64, name="fixed")(jax.lax.stop_gradient(Dense(4)(x))))


def branches(x):
    layer = Dense(4)
    return nn.cond(jnp.sum(x) > 0, lambda m, x: m(x), lambda m, x: -m(x), layer, x)


class Layer(nn.Module):
    """To be scanned, once or twice."""

    @nn.compact
    def __call__(self, x, _=None):
        return nn.tanh(Dense(4)(x)), None


class Layers(nn.Module):
    axis: int = 0
    block: Any = Layer

    @nn.compact
    def __call__(self, x, _=None):
        over = nn.scan(self.block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=2)
        return over()(x, None)[0], None


def across(x):
    attention = nn.MultiHeadDotProductAttention(2, dtype=jnp.float64, normalize_qk=True, **F64)
    return attention(x, x[:, :3], mask=jnp.ones((1, 1, 5, 3)))


def asked_of(x):
    """The rows of an embedding are only ever multiplied with."""
    return nn.Embed(7, 4, **F64).attend(Dense(4)(x))


IMAGE, SEQUENCE = (3, 6, 5, 4), (3, 5, 4)

LINEN = (
    Model("mlp", model(mlp), (4, 6)),
    Model("mlp_without_bias", model(lambda x: Dense(3, use_bias=False)(x)), (4, 6)),
    Model("mlp_of_sequences", model(mlp), SEQUENCE),
    Model("shared_dense", model(shared), (5, 4)),
    Model("cnn", model(cnn), IMAGE),
    Model("cnn_strided", model(functools.partial(cnn, strides=(2, 1))), IMAGE),
    Model("cnn_dilated", model(functools.partial(cnn, kernel_dilation=(2, 1), padding="VALID")), IMAGE),
    Model("cnn_input_dilated", model(functools.partial(cnn, input_dilation=2, padding=((1, 0), (0, 2)))), IMAGE),
    Model("cnn_grouped", model(functools.partial(cnn, feature_group_count=2)), IMAGE),
    Model("cnn_depthwise", model(functools.partial(cnn, feature_group_count=4, use_bias=False)), IMAGE),
    Model("cnn_circular", model(functools.partial(cnn, padding="CIRCULAR", kernel_dilation=2)), IMAGE),
    Model("cnn_reflect", model(functools.partial(cnn, padding="REFLECT")), IMAGE),
    Model("cnn_1d_causal", model(functools.partial(conv1d, padding="CAUSAL", kernel_dilation=2)), SEQUENCE),
    Model("cnn_3d", model(conv3d), (2, 3, 4, 3, 2)),
    Model("transposed", model(transposed), IMAGE),
    Model("transposed_valid_dilated", model(functools.partial(transposed, padding="VALID", kernel_dilation=2)), IMAGE),
    Model("transposed_wide_stride", model(functools.partial(transposed, strides=(4, 1))), IMAGE),
    Model(
        "transposed_kernel",
        model(functools.partial(transposed, transpose_kernel=True)),
        IMAGE,
        {"ConvTranspose_0": "transpose_kernel"},
    ),
    Model("resnet", model(resnet), IMAGE, kwargs={"mutable": ["batch_stats"]}),
    Model("transformer", model(transformer), SEQUENCE),
    Model("transformer_rms", model(functools.partial(transformer, norm=nn.RMSNorm)), SEQUENCE),
    Model("transformer_scanned", model(scanned), SEQUENCE),
    Model("transformer_rematerialised", model(rematerialised), SEQUENCE),
    Model("embedding", model(lambda x: Dense(3)(nn.Embed(7, 4, **F64)(x))), (3, 5)),
    Model("tied_embedding", model(tied), (3, 5), {"embedding": "miss"}),
    Model("gru", model(lambda x: Dense(3)(nn.RNN(nn.GRUCell(4, **F64))(x))), SEQUENCE),
    Model("lstm", model(lambda x: Dense(3)(nn.RNN(nn.LSTMCell(4, **F64))(x))), SEQUENCE),
    Model("group_norm", model(normed(functools.partial(nn.GroupNorm, num_groups=2))), (3, 4)),
    Model("layer_norm", model(normed(nn.LayerNorm)), (3, 4)),
    Model(
        "weight_norm",
        model(lambda x: nn.WeightNorm(Dense(3))(x)),
        (4, 6),
        {"Dense_0/kernel": "miss", "bias": "miss", "scale": "no rule for WeightNorm"},
    ),
    Model("ensemble", model(ensemble), (4, 6)),
    Model("mapped", model(mapped), SEQUENCE),
    Model("einsum", model(einsum), SEQUENCE),
    Model("dense_general", model(general), SEQUENCE),
    Model("experts", model(experts), SEQUENCE),
    Model("subclass", model(lambda x: MyDense(3, **F64)(x)), (4, 6), {"MyDense": "no rule for MyDense"}),
    Model("position_table", model(positions), SEQUENCE, {"table": "no rule for Position"}),
    Model("mixed_precision", model(mixed), (4, 6)),
    Model("dropout", model(dropped), (4, 6), kwargs={"rngs": {"dropout": np.asarray([0, 1], np.uint32)}}),
    Model("narrow_parameters", model(narrow), (4, 6)),
    Model("batches_of_two_sizes", model(batches), (4, 6)),
    Model("frozen", model(frozen), (4, 6)),
    Model("branches", model(branches), (4, 6)),
    Model("scanned_twice", model(lambda x: Layers(block=Layers)(x)[0]), (3, 4)),
    Model("scanned_over_another_axis", model(lambda x: Layers(axis=1)(x)[0]), (3, 4)),
    Model(
        "spectral_norm",
        model(lambda x: nn.SpectralNorm(Dense(3))(x, update_stats=True)),
        (4, 6),
        {"Dense_0": "inside SpectralNorm"},
        {"mutable": ["batch_stats"]},
    ),
    Model("attending_alone", model(asked_of), (4, 6), {"embedding": r"attend() alone"}),
    Model("cross_attention", model(across), SEQUENCE),
)
