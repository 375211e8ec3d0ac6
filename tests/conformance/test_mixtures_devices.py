"""Mixtures whose stacks are divided over eight devices do what they do on one, with all arguments of anyone."""

import functools

import jax
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond
from tests.conformance import mixing
from tests.conformance.mixing import DIVIDED, LABELS
from tests.mesh import loops

pytestmark = pytest.mark.usefixtures("x64")


def over(name, axis):
    """What divides the stacks of a system, if it has any."""
    return {"axis": axis} if name in DIVIDED else {}


def beside(one, other, axis):
    systems = {"a": mixing.make(one, **over(one, axis)), "b": mixing.make(other, **over(other, axis))}
    return optax.partition(systems, LABELS)


def inside(engine, otherwise, axis):
    rest = mixing.inner(otherwise, **over(otherwise, axis))
    return mixing.outer(engine, otherwise=rest, **over(engine, axis))


def graft(one, other, axis):
    return precond.graft(mixing.make(one, **over(one, axis)), mixing.make(other, **over(other, axis)))


def around(one, other, axis):
    """AdaScale and its statistics, which go through a partition with `otherwise` in it."""
    systems = {"a": mixing.make(one, **over(one, axis)), "b": inside("shampoo", other, axis)}
    tx = optax.chain(optax.partition(systems, LABELS), precond.scale_by_adascale(0.1, mixing.SCALE))
    return optax.apply_if_finite(
        precond.transforms.finite_steps(precond.large_batches.differenced(tx)), max_consecutive_errors=3
    )


def accumulated(one, other, axis):
    return precond.accumulate(beside(one, other, axis), 2, layers=mixing.captured())


def mixtures():
    """By kind and by pair, as test parameters."""
    # What is accumulated are K-FAC and Shampoo beside each other.
    quick = {(beside, "muon", "kl_soap"), (inside, "ekfac", "soap"), (accumulated, "kfac", "adascale")}
    pairs = [("kfac", "shampoo"), ("ekfac", "soap"), ("kl_shampoo", "kfac"), ("soap", "mfac"), ("bare", "ekfac")]
    every = [(kind, *pair) for kind in (beside, inside, graft, around) for pair in pairs]
    others = [("muon", "kl_soap"), ("kl_soap", "muon"), ("meta", "official_soap"), ("official_soap", "nvidia")]
    every += [(kind, *pair) for kind in (beside, graft) for pair in (*others, ("nvidia", "meta"))]
    more = [
        ("tearfree", "nvidia_muon"),
        ("meta_soap", "google"),
        ("levenberg_marquardt", "muon"),
        ("nlcg", "kl_shampoo"),
    ]
    every += [(beside, *pair) for pair in (*more, ("neumann_series", "meta_soap"), ("meta_descent", "soap"))]
    every += [(inside, "shampoo", "adascale"), (inside, "kl_soap", "neumann_series")]
    every += [(beside, "google", "adascale"), (beside, "neumann", "google"), (accumulated, "kfac", "adascale")]
    every += [(accumulated, *pair) for pair in (*pairs[:1], *pairs[2:3], *others[:2], ("soap", "muon"))]
    every += [(around, *pair) for pair in (*others[:2], ("shampoo", "kl_soap"), ("kl_soap", "shampoo"))]
    return [
        pytest.param(functools.partial(kind, *pair), id=f"{kind.__name__}-{'-'.join(pair)}", marks=marks)
        for kind, *pair in every
        for marks in ([] if (kind, *pair) in quick else [pytest.mark.slow],)
    ]


def run(mixture, axis, place=lambda tree: tree):
    # Second moments cannot be averaged over micro-steps.
    moments = mixture.func is not accumulated
    given = lambda step: mixing.arguments(step, factors=mixing.factors(step, moments))  # noqa: E731
    return mixing.run(mixture(axis), given=given, extra=mixing.callers("adascale"), place=place)


def on(mesh):
    """Put each array onto the mesh. The kernel of the first layer is divided, and the others are replicated."""

    def put(x):
        spec = P("data") if x.shape[:1] == (8,) else P()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return functools.partial(jax.tree.map, put)


@pytest.mark.parametrize("kind", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("mixture", mixtures())
def test_a_mixture_on_eight_devices_does_what_it_does_on_one(mixture, kind):
    expected, _ = run(mixture, None)
    mesh = loops.mesh_of(kind)
    with jax.set_mesh(mesh):
        actual, state = run(mixture, "data", on(mesh))
    assert not all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
    mixing.assert_same(jax.device_get(actual), expected)
