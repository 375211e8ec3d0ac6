"""A capture of shapes or of traced arrays, and factors without their first axis, say what to write."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

import precond
from precond import layers
from precond.layers import linen
from precond.layers import nnx as front

X = jnp.ones((5, 4))
MODEL = nn.Dense(3)


def variables():
    return MODEL.init(jax.random.key(0), X)


def abstract():
    return nnx.eval_shape(lambda: nnx.Linear(4, 3, rngs=nnx.Rngs(0)))


CALLS = {
    "variables": lambda: linen.capture(MODEL, jax.eval_shape(MODEL.init, jax.random.key(0), X), X),
    "arguments": lambda: linen.capture(MODEL, variables(), jax.ShapeDtypeStruct((5, 4), jnp.float32)),
    "model": lambda: front.capture(abstract(), X),
    "traced": lambda: jax.jit(lambda v: linen.capture(MODEL, v, X).layers)(variables()),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_capture_that_checks_itself_needs_numbers(name):
    argument = {"traced": "variables"}.get(name, name)
    what = {"traced": "a traced array"}.get(name, "a shape without numbers")
    with pytest.raises(
        TypeError, match=rf"{argument}= has {what} at '.*', and capture\(\) reads numbers.*tolerance=None"
    ):
        CALLS[name]()


def test_without_its_check_it_takes_shapes():
    assert front.capture(abstract(), X, tolerance=None).layers


@pytest.mark.parametrize("part", [lambda x: x[0], lambda x: x[0, 0]], ids=["a matrix", "a row"])
def test_factors_without_their_first_axis_are_refused(part):
    capture, params = linen.capture(MODEL, variables(), X), variables()["params"]
    run = layers.factors_alone(
        lambda p: capture.apply({"params": p}, X), capture, fisher=layers.exact(layers.gaussian())
    )
    tx, factors = precond.kfac(1e-3, capture.layers), run(params)
    with pytest.raises(ValueError, match="where a stack of matrices or diagonals belongs"):
        tx.update(params, tx.init(params), params, factors=jax.tree.map(part, factors))
