"""Use one method on one platform and another on the others."""

from collections.abc import Callable
from typing import Any

import jax

from precond.arguments import check_part, described
from precond.roots.methods.method import Method, Ridge, RootResult
from precond.roots.root import Power

__all__ = ["by_platform"]


@described()
def by_platform(
    default: Method, *, cpu: Method | None = None, gpu: Method | None = None, tpu: Method | None = None
) -> Method:
    """Use one method on one platform and another on the others; the choice is made where the program is lowered.

    Shampoo's default is `by_platform(precond.composite(), cpu=precond.eigh())`, since at the default damping `eigh` is
    the fastest on CPU at sizes from 128 to 1024. SOAP's default is
    `by_platform(qr(), gpu=cholesky_qr(), tpu=rotations(group=None))`. On an H200 the QR decompositions of a stack of
    large matrices take a hundred times as long as `cholesky_qr`. The compiler for TPUs takes more than ten minutes for
    any decomposition of them.

    Args:
      default: the method on every platform for which no other is given.
      cpu: the method on CPU.
      gpu: the method on the GPUs of any maker.
      tpu: the method on TPU.

    Returns:
      A `precond.Method` that computes what all of them compute: roots, bases, or both.

    Raises:
      ValueError: if one computes roots alone and another one bases alone.
      TypeError: for anything but methods.

    Examples:
      >>> from precond import composite, inverse_root, newton
      >>> root = inverse_root(method=by_platform(composite(), gpu=newton()))
    """
    named = {"cpu": cpu, "gpu": gpu, "tpu": tpu}
    given = {name: method for name, method in named.items() if method is not None}
    for name, method in {"default": default, **given}.items():
        check_part(name, method, Method, "precond.eigh()")
    methods = {"default": default, **given}
    text = f"by_platform({', '.join([default.name, *(f'{name}={method.name}' for name, method in given.items())])})"
    roots = {name: method.root for name, method in methods.items() if method.root is not None}
    bases = {name: method.basis for name, method in methods.items() if method.basis is not None}
    if len(methods) > max(len(roots), len(bases)):
        raise ValueError(f"{text}: one of them computes roots alone and another one bases alone, so choose others.")

    def root(a: jax.Array, power: Power, ridge: Ridge, least: float) -> RootResult:
        return _choose({name: lambda f=f: f(a, power, ridge, least) for name, f in roots.items()})

    def basis(a: jax.Array, old: jax.Array, first: jax.Array) -> jax.Array:
        return _choose({name: lambda f=f: f(a, old, first) for name, f in bases.items()})

    return Method(
        text,
        root if len(roots) == len(methods) else None,
        basis if len(bases) == len(methods) else None,
        keeps_zeros=all(method.keeps_zeros for method in methods.values()),
    )


def _choose(calls: dict[str, Callable[[], Any]]) -> Any:
    """Make the call of the platform. JAX has two names for GPUs."""
    if "gpu" in calls:
        calls["cuda"] = calls["rocm"] = calls.pop("gpu")
    return jax.lax.platform_dependent(**calls)
