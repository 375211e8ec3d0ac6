"""A small causal transformer over bytes, in Flax nnx."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

__all__ = ["Transformer", "loss"]


class Block(nnx.Module):
    """Attention, then a perceptron, each normalised before and added to what came in."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.attention_norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, use_bias=False, decode=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x[..., 0])
        x += self.attention(self.attention_norm(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class Transformer(nnx.Module):
    """From bytes `[batch, length]` to the logits of the byte that follows each, `[batch, length, symbols]`."""

    def __init__(self, symbols: int, length: int, rngs: nnx.Rngs, *, width: int = 64, heads: int = 4, depth: int = 2):
        self.symbols = nnx.Embed(symbols, width, rngs=rngs)
        self.places = nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, symbols, use_bias=False, rngs=rngs)

    def __call__(self, text: jax.Array) -> jax.Array:
        x = self.symbols(text) + self.places(jnp.arange(text.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(model: nnx.Module, windows: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats of each byte of `windows` after the first, given those before it."""
    windows = windows.astype(jnp.int32)
    logits = model(windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()
