"""Layers are found by their path, whatever the keys of the parameters look like."""

import dataclasses
import functools
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import layers
from precond.layers.nested import keys_to

X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
WEIGHTS = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}


@pytest.mark.parametrize("probes", [False, True], ids=["factors", "probes"])
def test_keys_with_slashes_make_no_difference(probes):
    """Haiku calls a layer `mlp/~/linear` where Flax nests dictionaries, and may have one called `mlp` beside it."""

    def update_of(params, find):
        capture = layers.explicit({"mlp/~/linear": layers.dense()}, params, allow_uncovered=["^mlp/scale$"])

        def forward(params, x):
            p = find(params)
            y = capture.apply("mlp/~/linear", p, x @ p["kernel"] + p["bias"], x)
            return capture.counted(params, y)

        def loss(outputs, x):
            return jnp.mean(jnp.sum((outputs - jnp.sin(x[:, :2])) ** 2, axis=-1))

        if probes:
            params, tx = capture.attach(params), precond.kfac(0.1)
            grads, given = jax.grad(lambda params: loss(forward(params, X), X))(params), {}
        else:
            tx = precond.kfac(0.1, capture.layers)
            f = layers.value_grad_factors(forward, loss, capture, fisher=layers.empirical())
            _, grads, factors = f(params, X)
            given = {"factors": factors}
        updates, _ = tx.update(grads, tx.init(params), params, **given)
        return find(capture.detach(updates))

    nested = update_of({"mlp": {"scale": jnp.ones(2), "~": {"linear": WEIGHTS}}}, lambda p: p["mlp"]["~"]["linear"])
    joined = update_of({"mlp": {"scale": jnp.ones(2)}, "mlp/~/linear": WEIGHTS}, lambda p: p["mlp/~/linear"])
    assert jnp.any(nested["kernel"] != 0)
    chex.assert_trees_all_equal(joined, nested)


def test_a_path_to_nowhere_is_an_error():
    with pytest.raises(ValueError, match=r"no layer 'mlp/linear' among the parameters, which are \['mlp'\]"):
        keys_to({"mlp": WEIGHTS}, "mlp/linear")


class Pair(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    kernel: jax.Array
    bias: jax.Array


@flax.struct.dataclass
class Struct:
    kernel: jax.Array
    bias: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Network:
    """A node above the layers; one of its names is that of a box's only entry."""

    first: object
    value: object


NODES = {
    "dictionary": lambda kernel, bias: {"kernel": kernel, "bias": bias},
    "tuple": lambda kernel, bias: (kernel, bias),
    "list": lambda kernel, bias: [kernel, bias],
    "named_tuple": Pair,
    "dataclass": Record,
    "struct": Struct,
}
ABOVE = {
    "dictionary": lambda first, last: {"first": first, "last": last},
    "list": lambda first, last: [first, last],
    "dataclass": Network,
}


def entries(node):
    """The weights and the bias of a layer, read as its class is read."""
    if isinstance(node, dict):
        return node["kernel"], node["bias"]
    if isinstance(node, tuple | list):
        kernel, bias = node
        return kernel, bias
    return node.kernel, node.bias


def layers_in(params):
    if isinstance(params, dict):
        return list(params.values())
    return list(params) if isinstance(params, list) else [params.first, params.value]


@functools.cache
def trained(node, above, probes):
    """Parameters after two steps of K-FAC with a network of two layers, the second of which is three in a scan."""
    rng, node, above = np.random.default_rng(0), NODES[node], ABOVE[above]
    first = node(jnp.asarray(rng.standard_normal((3, 2))), jnp.zeros(2))
    last = node(jnp.asarray(rng.standard_normal((3, 2, 2))), jnp.zeros((3, 2)))
    params = above(first, last)
    paths = {"dict": ("first", "last"), "list": ("0", "1"), "Network": ("first", "value")}[type(params).__name__]
    names = ("0", "1") if isinstance(first, tuple | list) and not isinstance(first, Pair) else ("kernel", "bias")
    capture = layers.explicit({path: layers.LayerSpec(layers.dense(), *names) for path in paths}, params)

    def forward(params, x):
        own = layers_in(params)
        kernel, bias = entries(own[0])
        x = jnp.tanh(capture.apply(paths[0], own[0], x @ kernel + bias, x))

        def one(x, layer):
            kernel, bias = entries(layer)
            return capture.apply(paths[1], layer, x @ kernel + bias, x), None

        return capture.counted(params, jax.lax.scan(one, x, own[1])[0])

    def loss(outputs, x):
        return jnp.mean(jnp.sum((outputs - jnp.sin(x[:, :2])) ** 2, axis=-1))

    tx = precond.kfac(0.1, None if probes else capture.layers)
    params = capture.attach(params) if probes else params
    run = layers.value_grad_factors(forward, loss, capture, fisher=layers.empirical())

    @jax.jit
    def step(params, state):
        if probes:
            grads, given = jax.grad(lambda params: loss(forward(params, X), X))(params), {}
        else:
            _, grads, factors = run(params, X)
            given = {"factors": factors}
        updates, state = tx.update(grads, state, params, **given)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(2):
        params, state = step(params, state)
    return capture.detach(params)


def plain(params):
    return [tuple(entries(layer)) for layer in layers_in(params)]


@pytest.mark.parametrize(
    ("node", "above", "probes"),
    [
        *((node, "list", True) for node in NODES),
        ("tuple", "dictionary", False),
        *(pytest.param("tuple", above, False, marks=pytest.mark.slow) for above in ("list", "dataclass")),
        ("struct", "dataclass", True),
    ],
)
def test_layers_are_found_in_trees_of_all_kinds(node, above, probes):
    found = trained(node, above, probes)
    # The same types as before, without probes.
    expected = ABOVE[above](*(NODES[node](*one) for one in plain(found)))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert all(type(a) is type(b) for a, b in zip(layers_in(found), layers_in(expected), strict=True))
    true = trained("dictionary", "dictionary", probes)
    chex.assert_trees_all_equal(plain(found), plain(true))


class Closed(flax.struct.PyTreeNode):
    """Its subclasses make themselves known to JAX."""

    kernel: jax.Array


def test_parameters_that_can_carry_no_probe_are_refused():
    with pytest.raises(TypeError, match=r"of the class Closed, which can carry no probe.*as a dictionary, a tuple"):
        layers.explicit({"0": layers.dense(bias=False)}, [Closed(jnp.ones((3, 2)))])
