"""Every parameter of many real models is read as an expert reads it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from precond import views
from precond.blocks.parameter import parameters_of
from precond.blocks.path_name import parts_of
from precond.blocks.view import geometry
from precond.blocks.views.matrices import with_layer_axes
from tests.blocks.models import MODELS

SETS = {
    "default": views.default,
    "flax": views.flax,
    "torch": views.torch,
    "equinox": views.equinox,
    "haiku": views.haiku,
    "maxtext": views.maxtext(),
}


def sizes(text):
    return tuple(int(n) for n in text.split(","))


def models():
    """Of each model: its name, the sets that must read it, and its lines."""
    for text in MODELS.strip().split("\n\n"):
        heading, *lines = text.split("\n")
        name, sets = heading.removeprefix("# ").split(": ")
        for which in sets.split():
            yield pytest.param(which, [line.split() for line in lines], id=f"{name} by {which}")


def expected(shape, letters, read):
    """What the letters say: the shape it is read in, its two sides as sets of axes, and which of them is passive."""
    if letters == "-":
        return None
    sides = {
        frozenset(k for k, x in enumerate(letters) if x.lower() == side): any(x == side.upper() for x in letters)
        for side in "rc"
    }
    return read or shape, sides


def seen(view, shape):
    if view is None:
        return None
    g = geometry(view, shape, "it")
    named = [axis for entry in view.axes for axis in (entry if isinstance(entry, tuple) else (entry,))]
    assert g.order[len(g.order) - len(named) :] == tuple(named)  # each side in its own order
    groups = [frozenset(entry if isinstance(entry, tuple) else (entry,)) for entry in view.axes]
    return g.shape, {group: i in g.passive for i, group in enumerate(groups)}


@pytest.mark.parametrize(("which", "lines"), list(models()))
def test_a_model_is_read_as_an_expert_reads_it(which, lines):
    tree = {path: jax.ShapeDtypeStruct(sizes(shape), jnp.float32) for path, shape, *_ in lines}
    wrong = []
    for (path, parameter), (_, shape, letters, *read) in zip(parameters_of(tree), sorted(lines), strict=True):
        view = SETS[which](path, parameter)
        want = expected(sizes(shape), letters, sizes(read[0]) if read else None)
        if seen(view, sizes(shape)) != want:
            wrong.append((path, shape, letters, view))
    assert not wrong, "\n".join(map(str, wrong))


def stackable():
    """The models that have norms, of which one shows that all is stacked."""
    for text in MODELS.strip().split("\n\n"):
        heading, *lines = text.split("\n")
        lines = [line.split() for line in lines]
        if any(parts_of(path)[-1] == "scale" for path, shape, *_ in lines if "," not in shape):
            yield pytest.param(lines, id=heading)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("lines", list(stackable()))
def test_layers_of_a_stack_are_read_as_the_model(lines, axis, request):
    if axis == -1 and "scan" in request.node.name:
        return  # Of stacks of stacks, no more is promised than along the first two axes.
    one = {path: jax.ShapeDtypeStruct(sizes(shape), jnp.float32) for path, shape, *_ in lines}
    many = {path: jax.eval_shape(lambda x: jnp.stack([x] * 6, axis), x) for path, x in one.items()}
    found = {path: views.default(path, x) for path, x in parameters_of(one)}
    for path, x in parameters_of(many):
        assert 6 in [x.shape[a] for a in x.layer_axes]
        expected = None if found[path] is None else with_layer_axes(found[path], x.shape, (axis % x.ndim,), path)
        assert views.default(path, x) == expected, path


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Named:
    """What Haliax calls a `NamedArray`: it holds its array as an attribute."""

    array: jax.Array


@jax.tree_util.register_pytree_node_class
class Nameless:
    """A class that gives its leaf no name."""

    def __init__(self, x):
        self.x = x

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


@pytest.mark.parametrize("holder", [Named, Nameless])
def test_an_array_that_a_class_holds_has_the_path_of_the_class(holder):
    plain = {"c_fc": {"weight": jnp.ones((4, 3)), "bias": jnp.ones(4)}, "norm": {"scale": jnp.ones(4)}}
    held = jax.tree.map(holder, plain)
    assert [path for path, _ in parameters_of(held)] == ["c_fc/bias", "c_fc/weight", "norm/scale"]
    in_lists = {"weight": [jnp.ones((4, 3)), jnp.ones((5, 4))]}
    assert [path for path, _ in parameters_of(in_lists)] == ["weight/0", "weight/1"]
