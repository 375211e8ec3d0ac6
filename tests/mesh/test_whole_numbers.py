"""What takes a number from all parameters is refused where each device has a part of their blocks."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import precond
from precond.large_batches import convexify
from tests.mesh import loops

PARTS = {
    "scale_by_nlcg": lambda: precond.contrib.scale_by_nlcg(),
    "exponentiated": lambda: precond.contrib.exponentiated(optax.identity(), gain_rate=0.1),
    "finite_steps": lambda: precond.transforms.finite_steps(optax.trace(0.9)),
    "scale_by_neumann": lambda: optax.chain(precond.scale_by_neumann(0.1, regularizer=convexify()), optax.scale(-1.0)),
    "scale_by_adascale": lambda: precond.scale_by_adascale(0.1, scale=1),
    "quadratic_model": lambda: precond.transforms.quadratic_model(optax.identity(), damping=0.1),
    "levenberg_marquardt": lambda: optax.chain(
        precond.transforms.levenberg_marquardt(lambda damping: optax.sgd(0.1)), optax.scale(-1.0)
    ),
}


GIVEN = {"curvature": lambda v: v, "value": jnp.ones([]), "value_fn": lambda p: optax.tree.norm(p, squared=True)}
"""What quadratic models and Levenberg-Marquardt need."""


def moved(inner, **where):
    tx = precond.blocked(inner, block_size=8, otherwise=optax.identity(), **where)
    tx = optax.with_extra_args_support(tx)
    params = {"kernel": jnp.ones((32, 8)), "bias": jnp.ones(8)}
    return jax.jit(lambda p: tx.update(p, tx.init(p), p, **GIVEN)[0])(params)


@pytest.mark.parametrize("name", PARTS)
def test_it_runs_on_stacks_of_one_device_and_not_on_a_part_of_them(name):
    assert jnp.all(jnp.isfinite(moved(PARTS[name]())["kernel"]))
    with (
        jax.set_mesh(loops.mesh_of()),
        pytest.raises(ValueError, match=rf"{name}\(\) takes numbers from all parameters"),
    ):
        moved(PARTS[name](), axis="data")


@pytest.mark.parametrize("name", ["scale_by_nlcg", "finite_steps"])
def test_around_divided_stacks_it_runs(name):
    parts = {
        "scale_by_nlcg": lambda tx: optax.chain(tx, PARTS[name]()),
        "finite_steps": precond.transforms.finite_steps,
    }
    with jax.set_mesh(loops.mesh_of()):
        tx = parts[name](precond.shampoo(0.1, axis="data", block_size=8))
        params = {"kernel": jnp.ones((32, 8))}
        assert jnp.all(jnp.isfinite(jax.jit(lambda p: tx.update(p, tx.init(p), p)[0])(params)["kernel"]))


def test_neither_does_a_state_whose_arrays_do_not_begin_with_the_blocks():
    with jax.set_mesh(loops.mesh_of()), pytest.raises(ValueError, match=r"shape \(2, 8, 8, 8\), whose first axis"):
        moved(precond.scale_by_mfac(2), axis="data")


MIXING = {
    "adaptive_grad_clip": lambda: optax.adaptive_grad_clip(0.01),
    "add_noise": lambda: optax.add_noise(0.1, 0.1, jax.random.key(0)),
    "clip_by_block_rms": lambda: optax.clip_by_block_rms(0.5),
    "clip_by_global_norm": lambda: optax.chain(optax.scale_by_adam(), optax.clip_by_global_norm(1.0)),
    "normalize_by_update_norm": optax.normalize_by_update_norm,
    "scale_by_novograd": optax.scale_by_novograd,
    "scale_by_sm3": optax.scale_by_sm3,
    "scale_by_trust_ratio": lambda: optax.chain(optax.trace(0.9), optax.scale_by_trust_ratio()),
}


@pytest.mark.parametrize("name", MIXING)
def test_of_optax_too_what_changes_a_block_by_the_others_is_refused(name):
    assert jnp.all(jnp.isfinite(moved(MIXING[name]())["kernel"]))
    with jax.set_mesh(loops.mesh_of()):
        with pytest.raises(ValueError, match=r"inner= changes one block by the others, and axis= divides"):
            moved(MIXING[name](), axis="data")
        if name != "add_noise":  # its key has no batch
            assert jnp.all(jnp.isfinite(moved(precond.per_block(MIXING[name]()), axis="data")["kernel"]))


def test_a_number_for_all_blocks_is_refused():
    with jax.set_mesh(loops.mesh_of()), pytest.raises(ValueError, match="inner= keeps a number for a whole stack"):
        moved(optax.zero_nans(), axis="data")


@pytest.mark.parametrize(
    "make",
    [
        optax.scale_by_adam,
        optax.scale_by_sign,
        optax.scale_by_factored_rms,
        optax.centralize,
        lambda: optax.masked(optax.trace(0.9), True),
        lambda: precond.graft(optax.scale_by_sign(), optax.scale_by_adam()),
        lambda: optax.inject_hyperparams(optax.scale_by_adam)(b1=0.9),
    ],
)
def test_what_treats_blocks_alike_runs_on_divided_stacks(make):
    with jax.set_mesh(loops.mesh_of()):
        assert jnp.all(jnp.isfinite(moved(make(), axis="data")["kernel"]))


def in_shard_map(tx, params):
    with jax.set_mesh(loops.mesh_of()):
        step = jax.shard_map(
            lambda p: tx.update(p, tx.init(p), p)[0], in_specs=P(), out_specs=P(), axis_names={"data"}, check_vma=False
        )
        jax.jit(step)(params)


def in_pmap(tx, params):
    whole = jax.tree.map(lambda x: jnp.stack([x] * 8), params)
    jax.pmap(lambda p: tx.update(p, tx.init(p), p)[0], axis_name="data")(whole)


def on_an_abstract_mesh(tx, params):
    mesh = jax.sharding.AbstractMesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.sharding.use_abstract_mesh(mesh):
        jax.eval_shape(tx.init, params)


def of_shardings(tx, params):
    precond.state_shardings(tx, params, loops.mesh_of())


@pytest.mark.parametrize("where", [in_shard_map, in_pmap, on_an_abstract_mesh, of_shardings])
def test_the_trial_sees_nothing_of_the_loop_around_it(where):
    params = {"kernel": jnp.ones((32, 8)), "bias": jnp.ones(8)}
    where(precond.blocked(optax.scale_by_adam(), block_size=8, axis="data"), params)
    with pytest.raises(ValueError, match="inner= changes one block by the others"):
        where(precond.blocked(optax.clip_by_block_rms(0.5), block_size=8, axis="data"), params)
