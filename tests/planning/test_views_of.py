"""`views_of` says how any optimizer of this library reads its parameters, wherever it stands."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen

import precond
from precond import View
from precond.blocks import Layer

PARAMS = {
    "layers": {
        "mlp": {"kernel": jnp.ones((3, 8, 12)), "bias": jnp.ones((3, 12))},
        "norm": {"scale": jnp.ones((3, 8))},
    },
    "head": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)},
}
READ = {
    "head/bias": None,
    "head/kernel": View(((0,), (1,))),
    "layers/mlp/bias": None,
    "layers/mlp/kernel": View(((1,), (2,))),
    "layers/norm/scale": None,
}


def read(tx, params=PARAMS):
    return {row.path: row.view for row in precond.views_of(tx, params)}


def around(tx):
    """What users put around an optimizer."""
    labels = jax.tree.map(lambda _: "a", PARAMS)
    return {
        "chain": optax.chain(optax.clip_by_global_norm(1.0), tx),
        "partition": optax.partition({"a": tx, "b": optax.sgd(1.0)}, labels),
        "masked": optax.masked(tx, True),
        "multi steps": optax.MultiSteps(tx, 2).gradient_transformation(),
        "accumulate": precond.accumulate(tx, 2),
        "if finite": optax.apply_if_finite(tx, 3),
        "lookahead": optax.with_extra_args_support(tx),
        "hyperparameters": optax.inject_hyperparams(precond.shampoo, precond.static_args(precond.shampoo))(1e-3),
    }


@pytest.mark.parametrize("wrapper", list(around(optax.identity())))
def test_it_is_asked_through_any_wrapper(wrapper):
    assert read(around(precond.shampoo(1e-3))[wrapper]) == READ


@pytest.mark.parametrize("alias", ["shampoo", "soap", "kl_shampoo", "kl_soap", "muon"])
def test_aliases_read_alike(alias):
    given = {"scale": precond.orthogonal.width()} if alias == "muon" else {}
    assert read(getattr(precond, alias)(1e-3, **given)) == READ


def test_muon_reads_tall_matrices_as_wide_ones():
    transposed = {"head/kernel": View(((1,), (0,)))}
    assert read(precond.muon(1e-3)) == READ | transposed


def test_another_optimizer_reads_nothing():
    assert set(read(optax.adam(1e-3)).values()) == {None}


def test_what_a_mask_leaves_to_another_optimizer_is_not_preconditioned():
    mask = {"layers": True, "head": False}
    assert read(optax.masked(precond.soap(1e-3), mask))["head/kernel"] is None


def test_two_optimizers_that_read_a_parameter_give_two_rows():
    both = optax.chain(precond.shampoo(1e-3), precond.shampoo(1e-3, views=[("head", View((0,)))]))
    rows = [row for row in precond.views_of(both, PARAMS) if row.path == "head/kernel"]
    assert [row.words for row in rows] == ["matrix 8 x 4", "4 vectors 8"]


def test_the_blocks_are_those_of_the_stacks():
    tx, count = precond.shampoo(1e-3, block_size=5), {}
    for row in precond.views_of(tx, PARAMS):
        for name, blocks in row.blocks.items():
            count[name] = count.get(name, 0) + blocks
    assert count == {stack.shape: stack.blocks for stack in precond.plan(tx, PARAMS).stacks}


def test_the_layers_of_k_fac_are_told_by_parameter():
    params = {"a": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "scale": jnp.ones(4)}
    layers = {"a": Layer("a/kernel", "a/bias", 0, (3, 4), (), (0,), (1,))}
    rows = {row.path: row.words for row in precond.views_of(precond.kfac(1e-3, layers=layers), params)}
    assert rows == {
        "a/kernel": "matrix 4 x 4, the bias as its last row",
        "a/bias": "the last row of 'a/kernel'",
        "scale": "not preconditioned",
    }


def test_plan_has_the_same_rows():
    tx = precond.soap(1e-3)
    assert precond.plan(tx, PARAMS).views == precond.views_of(tx, PARAMS)


def test_nothing_is_allocated_and_shapes_do():
    shapes = {"kernel": jax.ShapeDtypeStruct((10**6, 10**6), "float32"), "none": None}
    assert precond.views_of(precond.shampoo(1e-3), shapes)[0].words == "matrix 1000000 x 1000000"


def test_thousands_of_tiny_tensors_are_warned_of():
    params = {"conv": {"weight": jnp.ones((64, 32, 3, 3))}}
    tx = precond.shampoo(1e-3, views=[("conv", View((2, 3)))])
    with pytest.warns(UserWarning, match="read as 2048 matrices 3 x 3. More than 1000"):
        jax.eval_shape(tx.init, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(precond.shampoo(1e-3).init, params)


@pytest.mark.parametrize(
    "ask",
    [
        precond.views_of,
        precond.plan,
        lambda tx, params: jax.eval_shape(tx.init, params),
    ],
    ids=["views_of", "plan", "init"],
)
def test_thousands_of_matrices_with_a_side_of_eight_are_reported_once_wherever_they_are_seen(ask):
    params = {"query_w": jax.ShapeDtypeStruct((48, 256, 8, 32), "float32")}
    wrong = precond.shampoo(1e-3, views=[("query_w", View((2, 3)))])
    with pytest.warns(UserWarning, match="read as 12288 matrices 8 x 32. More than 1000") as seen:
        ask(wrong, params)
    assert len(seen) == 1
    ask(precond.shampoo(1e-3), params)


def test_names_of_layers_that_the_view_mixes_are_warned_of():
    box = linen.LogicallyPartitioned(jnp.ones((8, 3, 12)), names=("embed", "layers", "mlp"))
    params = {"any": {"kernel": box}}
    with pytest.warns(UserWarning, match="'layers' in one of its sides"):
        jax.eval_shape(precond.shampoo(1e-3).init, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tx = precond.shampoo(1e-3, views=precond.views.named(params))
        state = tx.init(params)
    bare = linen.unbox(params)
    updates, _ = tx.update(bare, linen.unbox(state), bare)  # the same reading without boxes
    assert updates["any"]["kernel"].shape == (8, 3, 12)


def test_a_long_matrix_of_few_columns_is_reported():
    with pytest.warns(UserWarning, match="matrix 9000 x 4, cut into 1125 blocks. More than 1000"):
        precond.blocked(optax.identity(), block_size=8).init({"kernel": jnp.zeros((9000, 4))})


def test_a_stack_whose_axis_has_no_name_is_reported():
    box = linen.Partitioned(jnp.zeros((6, 16, 4, 4)), names=("embed", None, None))
    with pytest.warns(UserWarning, match="names for 3 axes.*it is a stack of layers whose axis has no name"):
        precond.blocked(optax.identity()).init({"attention": {"kernel": box}})
    stacked = precond.views.stacked("attention", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precond.blocked(optax.identity(), views=stacked).init({"attention": {"kernel": box}})
