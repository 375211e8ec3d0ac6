"""Tasks without data."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pinn

from benchmarks.quality.task import Task, half_squares, supervised
from precond import layers


def factorisation(*, rows: int = 256, columns: int = 192, rank: int = 64, steps: int = 400) -> Task:
    """The product of two matrices, a linear network, against one whose singular values fall from 1 to 1e-3."""
    left, right = (
        jnp.linalg.qr(jax.random.normal(jax.random.key(i), (n, rank)))[0] for i, n in ((0, rows), (1, columns))
    )
    wanted = rows**0.5 * left * jnp.logspace(0, -3, rank) @ right.T
    model = nn.Sequential([nn.Dense(rank, use_bias=False), nn.Dense(columns, use_bias=False)])
    return supervised(
        model,
        lambda key: (jnp.eye(rows), wanted),
        half_squares,
        layers.gaussian(),
        steps=steps,
        rate=5e-2,
        nesterov=1.0,
    )


def physics(*, sizes: tuple[int, ...] = pinn.SIZES, points: int = pinn.POINTS, steps: int = 3000) -> Task:
    """The physics-informed network of examples/programs/pinn.py: its loss has second derivatives by the input.

    K-FAC does not fit: its factors see a layer's outputs, and not their derivatives by the network's input.
    """
    return Task(
        steps,
        init=lambda key: pinn.init(key, sizes),
        batch=lambda key: jax.random.uniform(key, (points,)),
        forward=pinn.loss,
        loss=lambda value, batch: value,
        nesterov=1e-2,
    )


def quadratic(*, rows: int = 128, columns: int = 96, noise: float = 0.1, steps: int = 2000) -> Task:
    r"""Minimise <X, A X B> / 2 from gradients with noise, whose covariance is A (x) B as the Hessian's.

    The eigenvalues of A and B fall from 1 to 1e-3, in random directions. The loss is reported without the noise.
    There is no layer for K-FAC.
    """

    def matrix(n: int, power: float) -> jax.Array:
        basis = jnp.linalg.qr(jax.random.normal(jax.random.key(n), (n, n)))[0]
        return basis * jnp.logspace(0, -3, n) ** power @ basis.T

    (a, b), (root_a, root_b) = ([matrix(n, power) for n in (rows, columns)] for power in (1.0, 0.5))

    def loss(x: jax.Array, z: jax.Array) -> jax.Array:
        pull = noise * jnp.sum((root_a @ z @ root_b) * x)
        return 0.5 * jnp.sum((a @ x @ b) * x) + pull - jax.lax.stop_gradient(pull)

    return Task(
        steps,
        init=lambda key: jax.random.normal(key, (rows, columns)),
        batch=lambda key: jax.random.normal(key, (rows, columns)),
        forward=lambda x, z: x,
        loss=loss,
        rate=5e-2,
    )
