"""After one gradient of a thousand times the usual size, no later update is more than twice as large as usual."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests import catalog, of_gradients
from tests.conformance import harness

SPIKES = (50, 53, 57)  # right after a refresh of bases or roots, and between two
SHAPES = {"kernel": (24, 16), "bias": (16,)}
# Left out are those whose steps grow with the gradient: Neumann's and SGD's. K-FAC's steps grow up to its bound, so
# that they stay as large if usual steps reach it. KL-Shampoo's roots are old between two refreshes, and what they make
# of a spike is clipped to a root mean square of 1: without a magnitude its steps grow to that. Sums forget nothing.
LEFT_OUT = ("kfac", "neumann", "shampoo_sgd_magnitude", "shampoo_sum", "kl_shampoo_own_magnitude")
ALL = (*catalog.DEFAULTS, *catalog.LAYERED, *catalog.WHOLE, catalog.find("adascale_shampoo"), *catalog.VARIANTS)
CASES = tuple(case for case in ALL if case.name not in LEFT_OUT)


def sizes_of(tx, mixing=None):
    """A function from the step of the spike to the sizes of all updates, `[steps]` for each parameter.

    With a mixing, a pair of matrices, the rows and the columns of gradients depend on each other.
    """
    rng, total = np.random.default_rng(0), max(SPIKES) + 20
    params = {k: jnp.asarray(rng.standard_normal(s), jnp.float32) for k, s in SHAPES.items()}
    grads = {k: jnp.asarray(rng.standard_normal((total, *s)), jnp.float32) for k, s in SHAPES.items()}
    if mixing is not None:
        grads["kernel"] = jnp.asarray(mixing[0], jnp.float32) @ grads["kernel"] @ jnp.asarray(mixing[1], jnp.float32)

    @jax.jit
    def sizes(at):
        def step(state, seen):
            t, g = seen
            g = jax.tree.map(lambda x: x * jnp.where(t == at, 1000.0, 1.0), g)
            updates, state = tx.update(g, state, params)
            return state, {k: jnp.sqrt(jnp.mean(u**2)) for k, u in updates.items()}

        return jax.lax.scan(step, tx.init(params), (jnp.arange(total), grads))[1]

    return sizes


def growth(tx, names):
    """The largest size of a later update in units of the usual one, at worst over parameters and spikes."""
    worst, sizes = 0.0, sizes_of(tx)
    for at in SPIKES:
        found = sizes(at)
        worst = max(worst, *(found[k][at + 1 :].max() / found[k][30:50].mean() for k in names))
    return worst


@harness.each(CASES, quick=[case.name for case in CASES if case not in catalog.VARIANTS])
def test_no_later_update_is_twice_as_large(case):
    # Adam with b2 of 0.999 grows by more, and it is what the layers' optimizers have for the rest.
    names = ("kernel",) if case in catalog.LAYERED else SHAPES
    assert growth(case.make(), names) < 2


BOUNDED = {
    "K-FAC whose usual steps reach the bound": lambda: of_gradients.kfac(10.0),
    "Neumann behind clipped gradients": lambda: optax.chain(optax.clip_by_global_norm(20.0), neumann()),
}


def neumann():
    return catalog.find("neumann").make()


@pytest.mark.parametrize("make", BOUNDED.values(), ids=BOUNDED)
def test_no_later_update_is_with_what_the_page_says(make):
    assert growth(optax.with_extra_args_support(make()), ("kernel",)) < 2


@pytest.mark.parametrize(
    ("tx", "least"),
    [
        (of_gradients.kfac(1e-3), 100),
        (neumann(), 100),
        (precond.soap(1.0, transport=precond.roots.unchanged()), 3),
        (precond.shampoo(1.0, b2=0.99), 2.2),
        (optax.with_extra_args_support(optax.adam(1.0)), 2.2),
        (precond.shampoo(1.0, magnitude=optax.identity()), 100),
        (precond.kl_shampoo(1.0, magnitude=None), 10),
    ],
    ids=[
        "K-FAC",
        "Neumann",
        "SOAP, moments kept",
        "a long second moment",
        "Adam",
        "SGD's magnitude",
        "KL-Shampoo, no magnitude",
    ],
)
def test_without_what_bounds_them_they_grow(tx, least):
    assert 1000 > growth(tx, ("kernel",)) > least


LATE = precond.every(10, stagger=True, delay=1, warmup=1)


@pytest.mark.parametrize(
    ("tx", "b1"),
    [(precond.soap(1.0), 0.95), (precond.kl_soap(1.0), 0.9), (precond.kl_soap(1.0, refresh=LATE), 0.9)],
    ids=["SOAP", "KL-SOAP", "KL-SOAP in turns"],
)
def test_where_usual_steps_are_short_an_update_stays_in_the_bounds_of_adam(tx, b1):
    """Gradients are so ill-conditioned that a usual step is half as long as that of white noise."""
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] * np.geomspace(1, 1e-3, n) for n in SHAPES["kernel"])
    sizes = sizes_of(tx, (left, right.T))
    for at in SPIKES:
        assert sizes(at)["kernel"][at + 1 :].max() < 1.02 * (1 - b1) / np.sqrt(1 - 0.95)
