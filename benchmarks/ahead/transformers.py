"""A GPT in plain JAX, with dense or expert feed-forward layers, each layer by itself or all in one scan."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

HEAD = 64


class Config(NamedTuple):
    """Sizes; `experts` of 0 is a dense feed-forward part."""

    width: int
    layers: int
    vocabulary: int
    context: int
    scanned: bool = False
    experts: int = 0
    sequences: int = 4
    """In the batch of a device."""

    def shapes(self):
        layer = _layer(self.width, self.experts)
        if self.scanned:
            stacked = jax.tree.map(lambda x: _array(self.layers, *x.shape), layer)
            layers = {"layers": stacked}
        else:
            layers = {f"layer_{i:02}": layer for i in range(self.layers)}
        tables = {name: {"embedding": _array(n, self.width)} for name, n in self._tables()}
        return {**tables, **layers, "norm": _norm_shapes(self.width)}

    def _tables(self):
        return ("tokens", self.vocabulary), ("positions", self.context)

    def batch(self, devices):
        tokens = jax.ShapeDtypeStruct((devices * self.sequences, self.context), jnp.int32)
        return tokens, tokens

    def loss(self, params, tokens, targets):
        """The mean cross entropy. Products are of bfloat16, and every layer is computed again on the way back."""
        table = params["tokens"]["embedding"].astype(jnp.bfloat16)
        x = table[tokens] + params["positions"]["embedding"].astype(jnp.bfloat16)
        layer = jax.checkpoint(_apply)
        if self.scanned:
            x, _ = jax.lax.scan(lambda x, p: (layer(p, x), None), x, params["layers"])
        else:
            for i in range(self.layers):
                x = layer(params[f"layer_{i:02}"], x)
        x = _normalized(params["norm"], x)
        logits = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def _array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _norm_shapes(width):
    return {"scale": _array(width), "bias": _array(width)}


def _layer(width, experts):
    def dense(n, m):
        return {"kernel": _array(n, m), "bias": _array(m)}

    attention = {"qkv": dense(width, 3 * width), "out": dense(width, width)}
    norms = {"norm_1": _norm_shapes(width), "norm_2": _norm_shapes(width)}
    if not experts:
        return {**norms, **attention, "up": dense(width, 4 * width), "down": dense(4 * width, width)}
    wide = {"up": {"w": _array(experts, width, 4 * width)}, "down": {"w": _array(experts, 4 * width, width)}}
    return {**norms, **attention, "router": dense(width, experts), "experts": wide}


def _normalized(p, x):
    y = x.astype(jnp.float32)
    y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    return (y * p["scale"] + p["bias"]).astype(x.dtype)


def _dense(p, x):
    return x @ p["kernel"].astype(x.dtype) + p["bias"].astype(x.dtype)


def _attention(p, x):
    batch, time, width = x.shape
    qkv = _dense(p["qkv"], x).reshape(batch, time, 3, width // HEAD, HEAD)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum("bthc,bshc->bhts", q, k, preferred_element_type=jnp.float32) / math.sqrt(HEAD)
    scores = jnp.where(jnp.tri(time, dtype=bool), scores, -1e30)
    mixed = jnp.einsum("bhts,bshc->bthc", jax.nn.softmax(scores).astype(x.dtype), v)
    return _dense(p["out"], mixed.reshape(x.shape))


def _feed_forward(p, x):
    if "router" not in p:
        return _dense(p["down"], jax.nn.gelu(_dense(p["up"], x)))
    # Every expert sees every token, weighted: what is compiled here is the optimizer, not a way to send tokens.
    weight = jax.nn.softmax(_dense(p["router"], x).astype(jnp.float32)).astype(x.dtype)
    up, down = (p["experts"][name]["w"].astype(x.dtype) for name in ("up", "down"))
    hidden = jax.nn.gelu(jnp.einsum("btd,edf->btef", x, up)) * weight[..., None]
    return jnp.einsum("btef,efd->btd", hidden, down)


def _apply(p, x):
    x = x + _attention(p, _normalized(p["norm_1"], x))
    return x + _feed_forward(p, _normalized(p["norm_2"], x))
