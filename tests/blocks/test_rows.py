"""A parameter that is the last row of another's matrices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import precond
from precond.blocks import Layer, View, layout_of, views
from tests.mesh import loops

VIEWS = {"dense/kernel": View((0, 1), row="dense/bias"), "stack/kernel": View((2, 1), row="stack/bias")}


def view_of(path, leaf):
    return VIEWS.get(path)


def tree(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (7, 8), "bias": (8,)}, "stack": {"kernel": (3, 8, 7), "bias": (3, 8)}, "other": (5,)}
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s)), shapes, is_leaf=lambda x: isinstance(x, tuple))


@pytest.mark.parametrize("block_size", [None, 4, 3])
def test_a_row_is_packed_as_the_dense_definition_says_and_comes_back(block_size, x64):
    params = tree()
    whole = jnp.concatenate(
        [
            jnp.concatenate([params["dense"]["kernel"], params["dense"]["bias"][None]])[None],
            jnp.concatenate([jnp.swapaxes(params["stack"]["kernel"], 1, 2), params["stack"]["bias"][:, None]], axis=1),
        ]
    )
    layout, joined = layout_of(params, view_of, block_size), {"whole": whole}
    found, expected = (
        at.pack(jax.tree.leaves(x))
        for at, x in ((layout, params), (layout_of(joined, lambda *_: View((1, 2)), block_size), joined))
    )
    chex.assert_trees_all_equal(found, expected)
    back = layout.unpack(found, jax.tree.leaves(params))
    chex.assert_trees_all_equal(back, jax.tree.leaves(params))
    assert layout.viewed == (True, True, False, True, True)


def test_shampoo_of_a_row_is_that_of_the_joined_matrix(x64):
    params = {"dense": tree()["dense"]}
    joined = {"w": jnp.concatenate([params["dense"]["kernel"], params["dense"]["bias"][None]])}
    txs = [precond.shampoo(0.1, views=view_of), precond.shampoo(0.1)]
    states = [tx.init(p) for tx, p in zip(txs, (params, joined), strict=True)]
    for seed in range(3):
        g = {"dense": tree(seed)["dense"]}
        h = {"w": jnp.concatenate([g["dense"]["kernel"], g["dense"]["bias"][None]])}
        out, states[0] = txs[0].update(g, states[0], params)
        expected, states[1] = txs[1].update(h, states[1], joined)
        np.testing.assert_allclose(out["dense"]["kernel"], expected["w"][:-1], rtol=1e-12)
        np.testing.assert_allclose(out["dense"]["bias"], expected["w"][-1], rtol=1e-12)


@pytest.mark.parametrize("spec", [P("data"), P(None, "data")], ids=["rows", "columns"])
def test_a_row_comes_divided_with_its_matrix(spec):
    mesh = loops.mesh_of(loops.EXPLICIT)
    params = {"dense": {"kernel": jnp.arange(24.0 * 16).reshape(24, 16), "bias": jnp.arange(16.0)}}
    specs = {"dense": {"kernel": spec, "bias": P("data")}}

    def moved(axis, specs):
        tx = precond.blocked(optax.scale(2.0), block_size=None, views=view_of, axis=axis)
        put = loops.put(params, mesh, specs)
        compiled = jax.jit(tx.update).lower(put, tx.init(put)).compile()
        return compiled(put, tx.init(put))[0], compiled.as_text()

    found, program = moved(precond.sharded("data", gradients="data"), specs)
    chex.assert_trees_all_equal(found, jax.tree.map(lambda x: 2 * x, params))
    assert "all-gather(" not in program


def test_a_row_that_is_absent_is_left_out():
    params = {"dense": {"kernel": jnp.ones((7, 8))}}
    assert list(layout_of(params, view_of, None).stacks) == ["7x8"]


def test_rows_that_do_not_fit_are_refused_by_name():
    init = functools.partial(layout_of, block_size=None)
    with pytest.raises(ValueError, match=r"'dense/bias' of shape .5,. does not fit as the last row of 'dense/kernel'"):
        init({"dense": {"kernel": jnp.ones((7, 8)), "bias": jnp.ones(5)}}, view_of)
    with pytest.raises(ValueError, match="must have two axes"):
        init({"k": jnp.ones((2, 3, 4)), "b": jnp.ones(4)}, lambda p, x: View((0, 1, 2), row="b") if p == "k" else None)
    with pytest.raises(ValueError, match="has a view of its own"):
        init({"k": jnp.ones((3, 4)), "b": jnp.ones(4)}, lambda p, x: View((0, 1), row="b") if p == "k" else View((0,)))
    with pytest.raises(ValueError, match="'a' and for 'c'"):
        init(
            {"a": jnp.ones((3, 4)), "b": jnp.ones(4), "c": jnp.ones((3, 4))},
            lambda p, x: None if p == "b" else View((0, 1), row="b"),
        )
    with pytest.raises(TypeError, match="must be the path of a parameter"):
        init({"k": jnp.ones((3, 4))}, lambda p, x: View((0, 1), row=0))


def test_a_map_is_read_with_its_positions_apart():
    kernel = jnp.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # a convolution, 2 x 3 positions of 4 channels
    for layer in (
        Layer("k", None, 0, (2, 3, 4, 5), (), (0, 1, 2), (3,), positions=6),
        Layer("k", None, 0, (24, 5), (), (0,), (1,), positions=6),
    ):
        read = kernel.reshape(layer.shape)
        stacks = layout_of({"k": read}, views.layers({"": layer}), None).pack([read])
        np.testing.assert_array_equal(stacks["6x4x5"][0], kernel.reshape(6, 4, 5))


def test_factors_need_whole_layers_and_a_transformation_that_places_them():
    layer = {"": Layer("kernel", "bias", 0, (2, 3), (), (0,), (1,))}
    params, factors = (
        {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        {"": (jnp.ones((1, 3, 3)), jnp.ones((1, 3, 3)))},
    )
    tx = precond.blocked(precond.by_layer(optax.identity(), layer), block_size=2, views=views.layers(layer))
    with pytest.raises(ValueError, match=r"cut into blocks.*block_size=None"):
        tx.update(params, tx.init(params), factors=factors)
    bare = precond.scale_by_kronecker(precond.activations(), precond.inverse(1e-3))
    tx = precond.blocked(bare, block_size=None, views=views.layers(layer))
    with pytest.raises(ValueError, match=r"precond\.by_layer"):
        tx.update(params, tx.init(params), factors=factors)


@pytest.mark.parametrize(("inputs", "positions"), [((3, 4), 5), ((3, 4), 2), ((6, 4), 9)])
def test_a_map_whose_positions_do_not_divide_its_inputs_is_refused(inputs, positions):
    layer = Layer("k", None, 0, (*inputs, 5), (), (0, 1), (2,), positions=positions)
    with pytest.raises(ValueError, match=f"positions={positions} does not fit"):
        layer.view((*inputs, 5))
