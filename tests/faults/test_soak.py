"""Faults of every kind in long runs: all that is kept stays finite, and learning goes on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond

KINDS = ("none", "nan", "inf", "huge", "tiny", "zero", "rank one", "one entry")
TURNS = precond.every(5, stagger=True)
OPTIMIZERS = {
    "shampoo": functools.partial(precond.shampoo, 3e-3, refresh=TURNS),
    "shampoo, composite": functools.partial(precond.shampoo, 3e-3, refresh=TURNS, method=precond.composite()),
    "shampoo, newton": functools.partial(precond.shampoo, 3e-3, refresh=TURNS, method=precond.newton()),
    "soap": functools.partial(precond.soap, 3e-3, refresh=TURNS._replace(delay=1, warmup=1)),
    "soap, rotations": functools.partial(
        precond.soap, 3e-3, refresh=TURNS._replace(delay=1, warmup=1), method=precond.roots.rotations()
    ),
    "kl_shampoo": functools.partial(precond.kl_shampoo, 3e-3, refresh=TURNS),
    "kl_soap": functools.partial(precond.kl_soap, 3e-3, refresh=TURNS._replace(delay=1, warmup=1)),
    "muon": functools.partial(precond.muon, 3e-3, after=precond.transforms.normalize_neurons()),
}
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("shampoo", "soap"))) for name in OPTIMIZERS]
WRAPPERS = {
    "alone": lambda tx: tx,
    # Without the condition its running mean never gets rid of a NaN, whatever the optimizer in it.
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2, should_skip_update_fn=optax.skip_not_finite),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, max_consecutive_errors=3),
}
START = {"kernel": jnp.zeros((6, 4)), "bias": jnp.ones(4)}
TARGET = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def loss(params):
    return jnp.mean(jnp.square(params["kernel"] - TARGET)) + jnp.mean(jnp.square(params["bias"]))


def damage(gradient, kind, key):
    """The gradient with one of KINDS of faults."""

    def one(g):
        noise = jax.random.normal(key, g.shape)
        faults = {
            "none": g,
            "nan": jnp.full_like(g, jnp.nan),
            "inf": jnp.full_like(g, jnp.inf),
            "huge": 1e30 * noise,
            "tiny": 1e-30 * noise,
            "zero": jnp.zeros_like(g),
            "rank one": jnp.broadcast_to(g.reshape(-1)[0], g.shape),
            "one entry": g.at[(0,) * g.ndim].set(jnp.nan),
        }
        return jnp.stack([faults[k] for k in KINDS])[kind]

    return jax.tree.map(one, gradient)


LONGEST = 20_000


@functools.cache
def runner(name, wrapper):
    """From the faults of each step to the last parameters and state, and whether all parameters were ever finite.

    It is one program for runs of any length.
    """
    tx = optax.with_extra_args_support(WRAPPERS[wrapper](OPTIMIZERS[name]()))

    def step(i, carry, kinds, keys):
        params, state, fine = carry
        kind, key = kinds[i], keys[i]
        gradient = damage(jax.grad(loss)(params), kind, key)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, fine & jnp.all(jnp.stack([jnp.all(jnp.isfinite(p)) for p in params.values()]))

    @jax.jit
    def run(kinds, steps):
        keys = jax.random.split(jax.random.key(1), LONGEST)
        start = (START, tx.init(START), jnp.asarray(True))
        return jax.lax.fori_loop(0, steps, lambda i, carry: step(i, carry, kinds, keys), start)

    return lambda kinds: run(np.pad(kinds, (0, LONGEST - len(kinds))), len(kinds))


def assert_finite(tree):
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert not jnp.issubdtype(x.dtype, jnp.inexact) or np.isfinite(x).all(), jax.tree_util.keystr(path)


def late(name, wrapper):
    return wrapper != "alone" if name == "shampoo" else name != "soap" or wrapper == "apply_if_finite"


@pytest.mark.parametrize(
    ("name", "wrapper"),
    [pytest.param(n, w, marks=[pytest.mark.slow] * late(n, w)) for n in OPTIMIZERS for w in WRAPPERS],
)
def test_every_fault_at_every_step_leaves_everything_finite(name, wrapper):
    steps = 8
    for kind in range(1, len(KINDS)):
        for at in range(steps):
            kinds = np.zeros(steps, np.int32)
            kinds[at] = kind
            params, state, fine = runner(name, wrapper)(kinds)
            assert fine, (KINDS[kind], at)
            assert_finite((params, state))


def soak(name, wrapper, steps, within):
    rng = np.random.default_rng(3)
    kinds = np.where(rng.random(steps) < 0.3, rng.integers(1, len(KINDS), steps), 0)
    kinds[-200:] = 0
    params, state, fine = runner(name, wrapper)(kinds.astype(np.int32))
    assert fine
    assert loss(params) < within * loss(START)
    return state


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_it_learns_in_spite_of_faults_under_every_wrapper(name, wrapper):
    state = soak(name, wrapper, 1000, within=0.2)
    if wrapper == "alone":  # the wrappers keep gradients as they come
        assert_finite(state)
        assert precond.metrics(state)["blocks/skipped"] > 100


@pytest.mark.parametrize("name", EACH)
def test_a_soak_of_20000_steps(name):
    assert_finite(soak(name, "alone", LONGEST, within=0.01))
