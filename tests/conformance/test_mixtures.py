"""Every system beside and inside every other, while all get the arguments of each and those of any caller.

Whatever a mixture does is compared with each system alone. The runs alone get no argument of callers, so that each
comparison also shows that those change nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond.blocks import path_name
from precond.layers.bases_of import bases_of
from tests.conformance import mixing
from tests.conformance.mixing import FIRST, LABELS, SECOND, SYSTEMS

pytestmark = pytest.mark.usefixtures("x64")


# The quick pairs have every system once, but for K-FAC and Shampoo, which are quick inside of each other.
EACH_ONCE = (
    ("meta", "ekfac"),
    ("soap", "google"),
    ("kl_soap", "muon"),
    ("official_soap", "kl_shampoo"),
    ("nvidia", "adascale"),
    ("mfac", "neumann"),
    ("levenberg_marquardt", "efcp"),
    ("tearfree", "nvidia_muon"),
    ("neumann_series", "nlcg"),
    ("meta_soap", "meta_descent"),
)


@pytest.mark.parametrize(("one", "other"), mixing.pairs(SYSTEMS, SYSTEMS, *EACH_ONCE))
def test_beside_another_each_system_does_what_it_does_alone(one, other):
    tx = optax.partition({"a": mixing.make(one), "b": mixing.make(other)}, LABELS)
    actual, _ = mixing.run(tx, extra=mixing.callers(one, other))
    both = zip(mixing.alone(one, FIRST), mixing.alone(other, SECOND), strict=True)
    mixing.assert_same(actual, [a | b for a, b in both])


def is_taken(name, path):
    """Whether the engine takes this parameter: K-FAC takes the bias of its layer, too."""
    return path == "one/kernel" or (name in mixing.LAYERED and path == "one/bias")


def without_taken(name, tree):
    """The parameters that the engine leaves to `otherwise`, as a tree of their own."""
    rest = {
        group: {k: x for k, x in leaves.items() if not is_taken(name, f"{group}/{k}")} for group, leaves in tree.items()
    }
    return {group: leaves for group, leaves in rest.items() if leaves}


def joined(name, taken, rest):
    """A tree whose leaves are those of the first tree where the engine takes them, and else those of the second."""

    def one(path, x):
        if is_taken(name, path_name(path)):
            return x
        return rest[path[0].key][path[1].key]

    return jax.tree_util.tree_map_with_path(one, taken)


# K-FAC and Shampoo, and two whose updates need arguments that a trial does not have.
INSIDE = (("kfac", "shampoo"), ("shampoo", "adascale"), ("muon", "neumann_series"))


@pytest.mark.parametrize(("engine", "otherwise"), mixing.pairs(mixing.ENGINES, SYSTEMS, *INSIDE))
def test_inside_an_engine_a_system_moves_the_parameters_without_a_view_as_it_does_alone(engine, otherwise):
    mixture = mixing.outer(engine, otherwise=mixing.inner(otherwise))
    actual, _ = mixing.run(mixture, extra=mixing.callers(engine, otherwise))
    taken, _ = mixing.run(mixing.outer(engine, otherwise=optax.identity()))
    rest, _ = mixing.run(mixing.inner(otherwise), cut=functools.partial(without_taken, engine))
    rest = [jax.tree.map(lambda x: -0.5 * x, updates) for updates in rest]
    mixing.assert_same(actual, [joined(engine, a, b) for a, b in zip(taken, rest, strict=True)])


@pytest.mark.parametrize("engine", mixing.LAYERED)
def test_k_fac_as_otherwise_says_so_where_it_is_given_a_bias_without_its_kernel(engine):
    whole = optax.chain(mixing.make(engine), optax.scale(-1.0))
    tx = mixing.make("shampoo", views=mixing.first_layer, otherwise=whole)
    with pytest.raises(ValueError, match="one/bias"):
        tx.init(mixing.parameters(0))


MIXED = {
    "beside": lambda other: optax.partition({"a": mixing.outer("ekfac"), "b": mixing.make(other)}, LABELS),
    "inside": lambda other: mixing.outer("ekfac", otherwise=mixing.inner(other)),
}


@pytest.mark.parametrize("mix", [pytest.param("beside", marks=pytest.mark.slow), "inside"])
@pytest.mark.parametrize("other", mixing.systems("soap", but=("ekfac",)))
def test_a_capture_finds_the_bases_of_ek_fac_among_the_roots_of_others(mix, other):
    params, layers = mixing.parameters(0), mixing.only("one")
    found, expected = (
        bases_of(mixing.run(tx, order=(0, 1))[1], layers, params)
        for tx in (MIXED[mix](other), mixing.outer("ekfac", otherwise=optax.identity()))
    )
    assert not np.allclose(expected["one"]["inputs"], np.eye(9))
    mixing.assert_same(found, expected)


@pytest.mark.parametrize("turn", [0, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", mixing.systems("shampoo", "mfac", "neumann"))
def test_arguments_of_callers_change_nothing_whatever_their_names(name, turn):
    read = {
        "kfac": {"factors"},
        "ekfac": {"factors"},
        "adascale": {"replicas"},
        "levenberg_marquardt": {"value", "value_fn", "curvature"},
        "neumann_series": {"grad_fn"},
    }.get(name, set())
    unread = dict.fromkeys(("factors", "replicas", "value", "grad", "value_fn", "grad_fn", "curvature"), "mine")
    extra = mixing.callers(name, turn=turn) | {key: x for key, x in unread.items() if key not in read}

    def given(step):
        return {key: x for key, x in mixing.arguments(step).items() if key in read}

    actual, _ = mixing.run(mixing.make(name), FIRST, given=given, extra=extra)
    mixing.assert_same(actual, mixing.alone(name, FIRST))


def test_arguments_of_callers_change_nothing_outside_of_jit():
    tx, params = mixing.make("shampoo"), mixing.part(mixing.parameters(0), FIRST)
    extra = mixing.callers("shampoo") | mixing.arguments(0)
    updates, _ = tx.update(mixing.part(mixing.gradients(0), FIRST), tx.init(params), params, **extra)
    mixing.assert_same(updates, mixing.alone("shampoo", FIRST)[0])


def reader():
    """A transformation that adds to each update the numbers which a caller passes, and insists on his word."""

    def update(updates, state, params=None, *, axis, total, moments, **extra):
        del params, extra
        assert axis == "mine"
        return jax.tree.map(lambda u: u + total + moments["deep"][1], updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def by_layer():
    return mixing.by_layer(reader(), otherwise=reader())


PLACES = {
    "blocked": lambda: precond.blocked(reader(), otherwise=reader()),
    "per_block": lambda: precond.blocked(precond.per_block(reader()), otherwise=reader()),
    "by_layer": by_layer,
    "measured": lambda: precond.use_measured_moments(reader()),
    "graft": lambda: precond.graft(reader(), reader()),
    "with_momentum, the momentum": lambda: precond.with_momentum(reader(), optax.identity()),
    "with_momentum, the inner one": lambda: precond.with_momentum(optax.identity(), reader()),
    "switch": lambda: precond.transforms.switch(2, reader(), reader()),
    "finite_steps": lambda: precond.transforms.finite_steps(reader()),
    "differenced": lambda: precond.large_batches.differenced(reader()),
    "accumulate": lambda: precond.accumulate(by_layer(), 1, layers=mixing.captured()),
    "by_layer in a graft in finite_steps": lambda: precond.transforms.finite_steps(precond.graft(by_layer(), reader())),
}


@pytest.mark.parametrize("place", PLACES)
def test_arguments_of_callers_reach_every_part_as_they_are(place):
    extra = {"axis": "mine", "total": jnp.asarray(2.0), "moments": {"deep": [None, np.asarray(1.0)]}}
    actual, _ = mixing.run(PLACES[place](), extra=extra)
    mixing.assert_same(actual, [jax.tree.map(lambda g: g + 3.0, mixing.gradients(i)) for i in mixing.ORDER])
