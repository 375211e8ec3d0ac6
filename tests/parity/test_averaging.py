"""Primal averaging against the two sequences that define it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precond import recipes

pytestmark = pytest.mark.usefixtures("x64")


def steps(tx, updates):
    """The parameters and the state after every update, from 0."""
    y, state, out = jnp.zeros(3), tx.init(jnp.zeros(3)), []
    for u in updates:
        moved, state = tx.update(u, state)
        y = y + moved
        out.append((y, state))
    return out


@pytest.mark.parametrize("mu_x", [0.8, None])
def test_the_parameters_lie_between_the_iterate_and_its_average(mu_x):
    rng, mu_y, rates = np.random.default_rng(0), 0.7, [0.1, 0.3, 0.2, 0.4]
    updates = [rng.standard_normal(3) for _ in rates]
    tx = recipes.primal_averaging(mu_y, mu_x, learning_rate=lambda t: jnp.asarray(rates)[t])
    x, z, total = np.zeros(3), np.zeros(3), 0.0
    for (y, state), u, rate in zip(steps(tx, updates), updates, rates, strict=True):
        z, total = z + u, total + rate**2
        keep = 1 - rate**2 / total if mu_x is None else mu_x
        x = keep * x + (1 - keep) * z
        np.testing.assert_allclose(y, mu_y * x + (1 - mu_y) * z, rtol=1e-12)
        np.testing.assert_allclose(recipes.averaged_params(state, y, mu_y), x, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_with_constant_numbers_it_is_momentum(nesterov):
    updates = list(np.random.default_rng(0).standard_normal((4, 3)))
    averaged = steps(recipes.primal_averaging(0.9 if nesterov else 1.0, 0.9), updates)
    heavy = steps(optax.chain(optax.trace(0.9, nesterov), optax.scale(0.1)), updates)
    for (ours, _), (theirs, _) in zip(averaged, heavy, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_arguments_are_checked_by_name():
    for arguments, message in [({"train": 0}, "train=0: must be above 0"), ({"evaluation": 2.0}, "evaluation=2.0")]:
        with pytest.raises(ValueError, match=message):
            recipes.primal_averaging(**arguments)
    for make, message in [
        (lambda: recipes.google_shampoo(beta2=2.0), "beta2=2.0"),
        (lambda: recipes.google_shampoo(start_preconditioning_step=-1), "start_preconditioning_step=-1"),
        (lambda: recipes.meta_shampoo(betas=(1.5, 1.0)), r"betas\[0\]=1.5"),
        (lambda: recipes.meta_soap(start_preconditioning_step=0), "start_preconditioning_step=0: must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="epsilon=1e-12: must be 0 with meta_pseudo_inverse"):
        recipes.meta_shampoo(root=recipes.meta_pseudo_inverse)
