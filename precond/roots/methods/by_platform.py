"""One method on CPU and another on everything else."""

import jax

from precond.arguments import described
from precond.roots.methods.composite import composite
from precond.roots.methods.eigh import eigh
from precond.roots.methods.method import Method, Ridge, Solved
from precond.roots.root import Power

__all__ = ["by_platform"]


@described()
def by_platform(*, cpu: Method | None = None, others: Method | None = None) -> Method:
    """Use one method on CPU and another on everything else; the choice is made where the program is lowered.

    Args:
      cpu: None is `precond.eigh()`, which at the default damping is the fastest there at sizes from 128 to 1024.
      others: None is `precond.composite()`, which needs only matrix products.

    Raises:
      ValueError: if one of them computes no roots. For a basis, name one method.

    Examples:
      >>> from precond import inverse_root, newton
      >>> root = inverse_root(method=by_platform(others=newton()))
    """
    cpu, others = eigh() if cpu is None else cpu, composite() if others is None else others
    first, second = cpu.root, others.root
    if first is None or second is None:
        raise ValueError(f"by_platform(cpu={cpu.name}, others={others.name}): one of them computes no inverse roots.")

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> Solved:
        return jax.lax.platform_dependent(
            a,
            cpu=lambda x: first(x, power, ridge, least),
            default=lambda x: second(x, power, ridge, least),
        )

    return Method("by_platform()", root, None)
