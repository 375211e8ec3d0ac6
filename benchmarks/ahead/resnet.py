"""A ResNet-50 in plain JAX: a tree of many shapes, few of them equal."""

import jax
import jax.numpy as jnp

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
CLASSES, SIDE, IMAGES = 1000, 224, 8
"""`IMAGES` a device."""


def _array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _conv_shapes(side, n, m):
    return {"conv": {"kernel": _array(side, side, n, m)}, "norm": {"scale": _array(m), "bias": _array(m)}}


def shapes():
    params, n = {"stem": _conv_shapes(7, 3, 64)}, 64
    for stage, (blocks, width) in enumerate(STAGES):
        for block in range(blocks):
            layers = {
                "first": _conv_shapes(1, n, width),
                "second": _conv_shapes(3, width, width),
                "third": _conv_shapes(1, width, 4 * width),
            }
            if block == 0:
                layers["shortcut"] = _conv_shapes(1, n, 4 * width)
            params[f"stage_{stage}_block_{block}"] = layers
            n = 4 * width
    return params | {"head": {"kernel": _array(n, CLASSES), "bias": _array(CLASSES)}}


def batch(devices):
    n = devices * IMAGES
    return jax.ShapeDtypeStruct((n, SIDE, SIDE, 3), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)


def _conv(p, x, stride=1):
    kernel = p["conv"]["kernel"].astype(x.dtype)
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = y.astype(jnp.float32)
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    y = (y - mean) * jax.lax.rsqrt(variance + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    return y.astype(x.dtype)


def _bottleneck(p, x, stride):
    y = jax.nn.relu(_conv(p["first"], x))
    y = jax.nn.relu(_conv(p["second"], y, stride))
    y = _conv(p["third"], y)
    return jax.nn.relu(y + (_conv(p["shortcut"], x, stride) if "shortcut" in p else x))


def loss(params, images, labels):
    """The mean cross entropy, with the moments of the batch in every norm."""
    x = jax.nn.relu(_conv(params["stem"], images.astype(jnp.bfloat16), 2))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for stage, (blocks, _) in enumerate(STAGES):
        for block in range(blocks):
            x = _bottleneck(params[f"stage_{stage}_block_{block}"], x, 2 if block == 0 and stage > 0 else 1)
    features = x.astype(jnp.float32).mean((1, 2))
    logits = features @ params["head"]["kernel"] + params["head"]["bias"]
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)
