"""What the conformance tests share: a small network's parameters and gradients, and each case jitted once."""

import contextlib
import functools
import inspect
import logging
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import catalog

DTYPES = ("bfloat16", "float16", "float32", "float64")

SHAPES = {
    "dense": {"kernel": (4, 3), "bias": (3,)},
    "head": {"kernel": (3, 4), "bias": (4,)},
    "twin": {"kernel": (4, 3)},
    "scale": (),
}


ONE = ("shampoo",)
"""The quick case of what no part of an alias has a say in: trees, dtypes, meshes and hyperparameters."""


def each(cases, quick=("shampoo", "soap")):
    """Run a test once for each case. Cases that differ from a quick one in a part alone are slow."""

    def marked(case):
        late = case.name not in quick and case not in catalog.WHOLE
        return pytest.param(case, marks=pytest.mark.slow) if late else case

    # The scope puts the tests of a module that share a case, and its compiled functions, behind one another.
    return pytest.mark.parametrize("case", [marked(c) for c in cases], ids=lambda case: case.name, scope="module")


def known(case, kwargs):
    """Those of the arguments that an alias has: not every one has roots to refresh."""
    return {name: x for name, x in kwargs.items() if name in inspect.signature(case.factory).parameters}


def is_shape(x):
    return isinstance(x, tuple) and all(isinstance(d, int) for d in x)


def normal(shapes=SHAPES, seed=0, dtype=jnp.float32):
    """A tree of Gaussian arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s), dtype), shapes, is_leaf=is_shape)


def scaled(tree, by):
    """The tree times a number, in its own type."""
    return jax.tree.map(lambda x: (x * by).astype(x.dtype), tree)


def gradients(shapes=SHAPES, steps=1, dtype=jnp.float32):
    """A list of trees, one a step."""
    return [normal(shapes, seed=1 + step, dtype=dtype) for step in range(steps)]


class Jitted(NamedTuple):
    """An optimizer whose functions are compiled once and shared by the tests."""

    init: Any
    update: Any


@functools.cache
def jitted(name):
    """The case of this name, jitted."""
    tx = catalog.find(name).make()
    return Jitted(jax.jit(tx.init), jax.jit(tx.update))


class Traced(NamedTuple):
    """Shapes and dtypes around one update, with the parameters in place of gradients."""

    params: Any
    before: Any
    updates: Any
    after: Any


@functools.cache
def traced(name, dtype):
    """What the case of this name makes of parameters of this dtype."""
    with jax.enable_x64(dtype == "float64"):
        tx, params = catalog.find(name).make(), abstract(normal(dtype=dtype))
        before = jax.eval_shape(tx.init, params)
        return Traced(params, before, *jax.eval_shape(tx.update, params, before, params))


def run(tx, params, grads, state=None):
    """All updates, and the last parameters and state, after one step a gradient."""
    state = tx.init(params) if state is None else state
    out = []
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        out.append(updates)
    return out, params, state


def run_jitted(tx, params, grads):
    """`run` with an update that is compiled here."""
    return run(Jitted(jax.jit(tx.init), jax.jit(tx.update)), params, grads)


def types(tree):
    """Shape, dtype and weakness of every leaf, in the tree's structure."""
    aval = jax.tree.map(jax.typeof, tree)
    return jax.tree.map(lambda a: (a.shape, str(a.dtype), a.weak_type), aval)


def abstract(tree):
    """The tree with a `jax.ShapeDtypeStruct` in place of every array."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def assert_equal(actual, expected):
    """The same structure, and the same bits in every leaf."""
    chex.assert_trees_all_equal(actual, expected)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    """The same structure, and leaves that differ by rounding at most."""
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(leaf, np.complex128)).all()


@contextlib.contextmanager
def log_compilations():
    """Collect what JAX logs about programs compiled in this context."""
    found = []

    class Collect(logging.Handler):
        def emit(self, record):
            if re.search(r"Finished .* compilation", record.getMessage()):
                found.append(record.getMessage())

    logger, handler = logging.getLogger("jax"), Collect()
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield found
    finally:
        logger.removeHandler(handler)
