"""Mixtures whose stacks are divided over eight devices do what they do on one, for all arguments of anyone."""

import functools

import jax
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond
from tests.conformance import mixing
from tests.conformance.mixing import LABELS
from tests.mesh import loops

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")


def make(name, axis, **more):
    """A system, divided over the axis if it can be."""
    return mixing.make(name, **({"axis": axis} if name in mixing.DIVIDED else {}), **more)


def beside(one, other, axis):
    return optax.partition({"a": make(one, axis), "b": make(other, axis)}, LABELS)


def inside(engine, otherwise, axis):
    """An engine for the first layer, and around it another one for the rest."""
    own = {"layers": mixing.only("one")} if engine in mixing.LAYERED else {"views": [("one/kernel", precond.View())]}
    more = {"layers": mixing.only("two")} if otherwise in mixing.LAYERED else {}
    return make(engine, axis, otherwise=make(otherwise, axis, **more), **own)


def around(name, axis):
    inner = precond.differenced(precond.adascale(lambda rate: make(name, axis), 0.1, mixing.SCALE))
    return precond.accumulate(precond.finite_steps(inner), 2, layers=mixing.captured())


def graft(one, other, axis):
    return precond.graft(make(one, axis), make(other, axis))
