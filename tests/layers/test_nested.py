"""Layers are found by their path, whatever the keys of the parameters look like."""

import jax
import jax.numpy as jnp
import numpy as np
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
    jax.tree.map(np.testing.assert_array_equal, joined, nested)


def test_a_path_to_nowhere_is_an_error():
    with pytest.raises(ValueError, match=r"no layer 'mlp/linear' among the parameters, which are \['mlp'\]"):
        keys_to({"mlp": WEIGHTS}, "mlp/linear")
