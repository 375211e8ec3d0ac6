"""SOAP in a Flax linen training loop: `TrainState` takes it as it takes any optimizer of Optax.

python examples/linen_train_state.py
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from text import SYMBOLS, batches, standard_library
from tqdm import tqdm

import precond

BATCH, LENGTH, WIDTH = 32, 64, 64


class Block(nn.Module):
    """Attention, then a perceptron, each normalised before and added to what came in."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nn.make_causal_mask(x[..., 0])
        x += nn.MultiHeadDotProductAttention(num_heads=4, use_bias=False)(nn.RMSNorm()(x), mask=mask)
        hidden = nn.gelu(nn.Dense(4 * WIDTH, use_bias=False)(nn.RMSNorm()(x)))
        return x + nn.Dense(WIDTH, use_bias=False)(hidden)


class Transformer(nn.Module):
    """From bytes `[batch, length]` to the logits of the byte that follows each."""

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        x = nn.Embed(SYMBOLS, WIDTH)(text) + nn.Embed(LENGTH, WIDTH)(jnp.arange(text.shape[1]))
        for _ in range(2):
            x = Block()(x)
        return nn.Dense(SYMBOLS, use_bias=False)(nn.RMSNorm()(x))


@jax.jit(donate_argnums=0)
def train_step(state: TrainState, windows: jax.Array) -> tuple[TrainState, jax.Array]:
    windows = windows.astype(jnp.int32)

    def loss(params: dict) -> jax.Array:
        logits = state.apply_fn({"params": params}, windows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    model = Transformer()
    params = model.init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]
    rate = optax.cosine_decay_schedule(0.016, options.steps)
    tx = precond.soap(rate, b1=0.9, weight_decay=0.1)  # where optax.adamw(rate, ..) was
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    bar = tqdm(batches(standard_library().train, options.steps, BATCH, LENGTH, seed=0), unit="step")
    for windows in bar:
        state, loss = train_step(state, windows)
        bar.set_postfix_str(f"loss {loss:.3f}")


if __name__ == "__main__":
    main()
