"""Take the step of `precond.qr` by Cholesky decompositions and products."""

from precond.arguments import described
from precond.linalg import cholesky_qr_basis
from precond.roots.methods.method import Method
from precond.roots.methods.tracked_basis import tracked_basis

__all__ = ["cholesky_qr"]


@described()
def cholesky_qr() -> Method:
    """Take the step of `precond.qr` by Cholesky decompositions and products in place of a QR decomposition.

    Use it on devices on which these are fast and QR is not; elsewhere `precond.qr` is the same and simpler.

    Reference:
      See `precond.linalg.cholesky_qr_basis`.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=cholesky_qr())
    """
    return Method("cholesky_qr()", None, tracked_basis(cholesky_qr_basis), keeps_zeros=True)
