"""PyPI's `precondition-opt`: Google's Distributed Shampoo, the only other Shampoo for JAX.

Its last release calls functions that JAX has since removed under their old names; with these put back it runs.
"""

import jax
import jax.numpy as jnp
import optax

for _name in ("map", "flatten", "unflatten"):
    if not hasattr(jax, f"tree_{_name}"):
        setattr(jax, f"tree_{_name}", getattr(jax.tree, _name))

from precondition import distributed_shampoo  # noqa: E402

# Float64 roots would need x64 throughout; without it they are float32 anyway, after a warning.
distributed_shampoo._MAT_INV_PTH_ROOT_DTYPE = jnp.float32


def google_shampoo(block_size: int, period: int, *, eigh: bool) -> optax.GradientTransformation:
    """Its fastest settings that do the same work: no merging, no metrics, one statistic a step."""
    return distributed_shampoo.distributed_shampoo(
        1e-3,
        block_size=block_size,
        beta1=0.9,
        beta2=0.99,
        start_preconditioning_step=1,
        preconditioning_compute_steps=period,
        best_effort_shape_interpretation=False,
        graft_type=distributed_shampoo.GraftingType.RMSPROP_NORMALIZED,
        nesterov=False,
        batch_axis_name=None,
        generate_training_metrics=False,
        eigh=eigh,
    )


def google_root(a: jax.Array, p: int, eps: float, *, eigh: bool) -> tuple:
    """Its inverse root of one matrix, with a ridge relative to the largest eigenvalue, and what it tells of it."""
    return distributed_shampoo.matrix_inverse_pth_root(a, p, ridge_epsilon=eps, eigh=eigh)
