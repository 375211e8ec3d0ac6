"""Updates outside of `jax.jit` are compiled at the first call, and never again."""

import gc
import sys
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from tests.conformance import harness, mixing


def traced_optimizer(around=lambda tx: tx):
    """An optimizer, and a list that grows whenever its refresh is traced."""
    seen, root = [], precond.inverse_root()

    def refresh(*given):
        seen.append(given)
        return root.refresh(*given)

    engine = precond.scale_by_kronecker(
        precond.outer_products(), root._replace(refresh=refresh), refresh=precond.every(3, stagger=True)
    )
    return around(precond.blocked(engine, block_size=4)), seen


def graft_of_two():
    return precond.graft(precond.soap(1.0, refresh=2), precond.muon(0.1))


EAGER = {
    "shampoo": lambda: precond.shampoo(1e-3, block_size=4),
    "soap": lambda: precond.soap(1e-3),
    "kl_shampoo": lambda: precond.kl_shampoo(1e-3),
    "kl_soap": lambda: precond.kl_soap(1e-3),
    "muon": lambda: precond.muon(1e-3),
    "mfac": lambda: precond.mfac(1e-3, window=2),
    "neumann": lambda: precond.neumann(1e-3),
    "graft": graft_of_two,
    "adascale": lambda: precond.adascale(precond.shampoo, 1e-3, scale=2),
    "google_shampoo": lambda: precond.recipes.google_shampoo(1e-3),
    "meta_shampoo": lambda: precond.recipes.meta_shampoo(1e-3),
    "meta_soap": lambda: precond.recipes.meta_soap(1e-3),
    "nvidia_kl_soap": lambda: precond.recipes.nvidia_kl_soap(1e-3),
    "official_soap": lambda: precond.recipes.official_soap(1e-3),
    "google_tearfree": lambda: precond.recipes.google_tearfree(1e-3),
    "nvidia_muon": lambda: precond.recipes.nvidia_muon(1e-3),
    "efcp": lambda: precond.mfac(1e-3, window=2, rank=1),
    "levenberg_marquardt": lambda: precond.transforms.levenberg_marquardt(lambda damping: precond.shampoo(damping)),
}
QUICK = ("shampoo", "mfac", "graft", "official_soap")


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x not in QUICK)) for x in EAGER])
def test_the_second_update_compiles_nothing(name):
    tx, params = EAGER[name](), {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    tx = optax.with_extra_args_support(tx)
    two = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    more = {"replicas": precond.replicas.stacked(two)[1]} if name == "adascale" else {}
    if name == "levenberg_marquardt":
        more = {"value": jnp.ones([]), "value_fn": optax.tree.norm, "curvature": lambda v: v}
    _, state = tx.update(params, tx.init(params), params, **more)
    with harness.log_compilations() as found:
        for _ in range(3):
            _, state = tx.update(params, state, params, **more)
    assert found == []


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["kfac", pytest.param("ekfac", marks=pytest.mark.slow)])
def test_neither_does_that_of_k_fac(name):
    tx, params, grads = mixing.make(name), mixing.parameters(0), mixing.gradients(0)
    _, state = tx.update(grads, tx.init(params), params, factors=mixing.factors(0))
    with harness.log_compilations() as found:
        for step in range(1, 3):
            factors = mixing.factors(step)
            found.clear()  # what makes the factors
            _, state = tx.update(grads, state, params, factors=factors)
            assert found == []


def test_few_programs_of_functions_that_are_made_anew_are_kept():
    class Batch:
        pass

    tx = precond.blocked(optax.scale(2.0), otherwise=optax.scale(2.0))
    params, alive = {"kernel": jnp.ones((6, 4))}, []
    state = tx.init(params)
    for _ in range(12):
        batch = Batch()
        alive.append(weakref.ref(batch))
        tx.update(params, state, params, value_fn=lambda p, batch=batch: p)
    del batch
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 8


@pytest.mark.parametrize(
    "tx",
    [
        precond.graft(precond.accumulate(precond.transforms.normalize(), 2), optax.identity()),
        precond.with_momentum(optax.ema(0.9), precond.accumulate(precond.transforms.clip_by_rms(1.0), 2)),
    ],
    ids=["graft", "with_momentum"],
)
def test_an_eager_update_inside_another_one_is_that_of_jit(tx):
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    state = tx.init(params)
    for _ in range(2):
        updates, after = tx.update(params, state, params)
        expected, _ = jax.jit(tx.update)(params, state, params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)
        state = after


@pytest.mark.parametrize("around", [lambda tx: tx, lambda tx: precond.accumulate(tx, 2)], ids=["alone", "accumulated"])
def test_the_second_update_traces_nothing_and_is_that_of_jit(around):
    tx, seen = traced_optimizer(around)
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    state = other = tx.init(params)
    step, traces = jax.jit(tx.update), []
    for i in range(4):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
        # Numbers and arrays change from call to call; a word does not.
        updates, state = tx.update(grads, state, params, value=0.5 * i, name="run", weights=np.full(3, i))
        traces.append(len(seen))
        expected, other = step(grads, other, params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6, atol=1e-7)
        if i == 0:
            first = len(seen)
    assert traces[1:] == [first] * 3


def test_what_cannot_be_hashed_is_run_as_it_is():
    class Unhashable:
        __hash__ = None

    tx = precond.blocked(optax.scale(2.0), otherwise=optax.scale(2.0))
    params = {"kernel": jnp.ones((6, 4))}
    updates, _ = tx.update(params, tx.init(params), mine=Unhashable())
    assert updates["kernel"].mean() == 2


def test_the_second_update_with_probes_traces_nothing():
    params, seen = {"kernel": jnp.ones((3, 2))}, []
    capture = precond.layers.explicit({"": precond.layers.dense(bias=False)}, params)

    def made(found):
        seen.append(found)
        return precond.scale_by_kfac(found)

    tx, carried = precond.from_probes(made), capture.attach(params)

    def loss(params, x):
        y = capture.apply("", params, x @ params["kernel"], x)
        return jnp.mean(jnp.sum(capture.counted(params, y), axis=1))

    state, counts = tx.init(carried), []
    for i in range(3):
        _, state = tx.update(jax.grad(loss)(carried, jnp.ones((4, 3)) * i), state)
        counts.append(len(seen))
    assert counts == [3] * 3  # by `init`, once by `update`, and once to learn whose the state is


def test_a_second_init_takes_no_trial_step(monkeypatch):
    module, taken = sys.modules["precond.arguments.sign_of"], []
    probe = module._probe
    monkeypatch.setattr(module, "_probe", lambda *given: taken.append(given) or probe(*given))
    tx = precond.blocked(optax.chain(optax.trace(0.9)), otherwise=optax.chain(optax.scale_by_adam(), optax.identity()))
    tx = precond.transforms.switch(3, optax.chain(optax.scale_by_adam()), tx)
    params = {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}
    tx.init(params)
    first = len(taken)
    tx.init(params)
    assert 0 < first == len(taken)
