"""Tasks on the source of Python's standard library."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from text import SYMBOLS, standard_library
from transformer import Transformer

from benchmarks.quality.task import Key, Layers, Params, Task, cross_entropy
from precond import layers
from precond.layers import nnx as front


def bytes_of(text: np.ndarray, size: int, length: int) -> Callable[[Key], jax.Array]:
    """Random windows `[size, length + 1]` of the first million bytes."""
    data = jnp.asarray(text[: 1 << 20])

    def batch(key: Key) -> jax.Array:
        starts = jax.random.randint(key, (size, 1), 0, len(data) - length)
        return data[starts + jnp.arange(length + 1)].astype(jnp.int32)

    return batch


def next_byte(logits: jax.Array, windows: jax.Array) -> jax.Array:
    return cross_entropy(logits, windows[:, 1:])


def graph_of(model: Callable[[Key], nnx.Module]) -> Any:
    return nnx.split(nnx.eval_shape(lambda: model(jax.random.key(0))))[0]


def characters(
    *, width: int = 64, heads: int = 4, depth: int = 2, length: int = 32, size: int = 16, steps: int = 240
) -> Task:
    """A causal transformer on the source of Python's standard library."""
    batch = bytes_of(standard_library().train, size, length)

    def model(key: Key) -> Transformer:
        return Transformer(SYMBOLS, length, nnx.Rngs(key), width=width, heads=heads, depth=depth)

    def captured() -> Layers:
        first = model(jax.random.key(0))
        capture = front.capture(first, batch(jax.random.key(0))[:2, :-1])
        rest = nnx.split(first, nnx.Param, ...)[2]
        return Layers(capture, lambda p, windows: capture.apply(p, rest, windows[:, :-1])[0], layers.categorical())

    graph = graph_of(model)
    return Task(
        steps,
        init=lambda key: nnx.split(model(key))[1],
        batch=batch,
        forward=lambda params, windows: nnx.merge(graph, params)(windows[:, :-1]),
        loss=next_byte,
        layers=captured,
    )


def pretrained(model: Callable[[Key], Transformer], batch: Callable[[Key], jax.Array], steps: int) -> Any:
    """The graph and the parameters of a transformer that AdamW has trained."""
    graph = graph_of(model)
    tx = optax.adamw(optax.cosine_decay_schedule(1e-2, steps))

    def step(carry: Any, key: Key) -> Any:
        params, state = carry
        windows = batch(key)
        grads = jax.grad(lambda params: next_byte(nnx.merge(graph, params)(windows[:, :-1]), windows))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), steps)

    def run(key: Key) -> Params:
        params = nnx.split(model(key))[1]
        return jax.lax.scan(step, (params, tx.init(params)), keys)[0][0]

    return graph, jax.jit(run)(jax.random.key(0))


def lora(
    *,
    rank: int = 4,
    width: int = 64,
    heads: int = 4,
    depth: int = 2,
    length: int = 32,
    size: int = 16,
    pretraining: int = 300,
    steps: int = 160,
) -> Task:
    """Pairs of narrow matrices teach a pretrained transformer the same text, with lower and upper case swapped.

    K-FAC is left out: the pairs are added to the weights, so that no layer shows their inputs and outputs.
    """
    text = standard_library().train[: 1 << 20]
    letters = ((text | 32) >= ord("a")) & ((text | 32) <= ord("z"))

    def model(key: Key) -> Transformer:
        return Transformer(SYMBOLS, length, nnx.Rngs(key), width=width, heads=heads, depth=depth)

    graph, frozen = pretrained(model, bytes_of(text, size, length), pretraining)
    paths, treedef = jax.tree_util.tree_flatten_with_path(frozen)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    shapes = {
        name: (len(x), x.size // len(x))
        for name, (path, x) in zip(names, paths, strict=True)
        if {"query", "value", "head"} & {getattr(part, "key", None) for part in path}
    }

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(shapes))
        return {
            name: {"a": jax.random.normal(k, (m, rank)) * m**-0.5, "b": jnp.zeros((rank, n))}
            for k, (name, (m, n)) in zip(keys, shapes.items(), strict=True)
        }

    def forward(pairs: Params, windows: jax.Array) -> jax.Array:
        leaves = [
            x + (pairs[name]["a"] @ pairs[name]["b"]).reshape(x.shape) if name in pairs else x
            for name, (_, x) in zip(names, paths, strict=True)
        ]
        return nnx.merge(graph, treedef.unflatten(leaves))(windows[:, :-1])

    batch = bytes_of(np.where(letters, text ^ 32, text), size, length)
    return Task(steps, init=init, batch=batch, forward=forward, loss=next_byte)
