"""What an optimizer's state tells of its health, as numbers to log."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from precond.roots import Health
from precond.transforms import BlockedState

__all__ = ["metrics"]


def metrics(state: Any) -> dict[str, jax.Array]:
    """Finite scalars from the state of any optimizer that has parts of this library in it, inside `jax.jit` or out.

    | key | over all roots and bases, or blocks |
    |---|---|
    | `roots/residual` | the largest residual of the last attempts (`precond.linalg.root_residual`) |
    | `roots/condition` | the largest condition number of the damped factors whose roots are in use |
    | `roots/damping` | the largest ridge in use, relative to the largest eigenvalue of its factor |
    | `roots/escalated` | how many will be tried with a damping that is raised |
    | `roots/refused` | attempts refused so far |
    | `roots/stale` | how many are older than their last turn, which was refused |
    | `blocks/skipped` | blocks skipped so far, because their gradient was not finite |

    Args:
      state: a state, or any tree with states in it; keys that nothing in it has a value for are left out.

    Returns:
      A flat dictionary of scalars.

    Examples:
      >>> import precond
      >>> tx, params = precond.shampoo(1e-3), {"kernel": jnp.ones((4, 3))}
      >>> {key: value.item() for key, value in metrics(tx.init(params)).items()}["roots/condition"]
      1.0
    """
    kinds = (Health, BlockedState)
    found = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kinds))
    # A BlockedState holds the records of its roots.
    blocks = [x for x in found if isinstance(x, BlockedState)]
    inside = [x for b in blocks for x in jax.tree.leaves(b, is_leaf=lambda x: isinstance(x, Health))]
    records = [x for x in [*found, *inside] if isinstance(x, Health)]
    out: dict[str, jax.Array] = {}
    if records:
        out |= _of_roots(records)
    if blocks:
        out["blocks/skipped"] = functools.reduce(jnp.add, [jnp.sum(b.skipped) for b in blocks])
    return out


def _of_roots(records: Sequence[Health]) -> dict[str, jax.Array]:
    def largest(name: str) -> jax.Array:
        return functools.reduce(jnp.maximum, [jnp.max(getattr(x, name)) for x in records])

    def total(arrays: Sequence[jax.Array]) -> jax.Array:
        return functools.reduce(jnp.add, [jnp.sum(x) for x in arrays])

    return {
        "roots/residual": largest("residual"),
        "roots/condition": largest("condition"),
        "roots/damping": largest("damping"),
        "roots/escalated": total([x.escalated > 0 for x in records]),
        "roots/refused": total([x.refused for x in records]),
        "roots/stale": total([x.stale > 0 for x in records]),
    }
