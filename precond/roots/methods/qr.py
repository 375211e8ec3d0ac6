"""Refresh a basis as SOAP does, by one QR decomposition."""

from precond.arguments import described
from precond.linalg import qr_basis
from precond.roots.methods.method import Method
from precond.roots.methods.tracked_basis import tracked_basis

__all__ = ["qr"]


@described()
def qr() -> Method:
    """Refresh bases as SOAP does: `eigh` the first time, then one QR decomposition of `A Q`; for bases only.

    Examples:
      >>> from precond import eigenbasis
      >>> root = eigenbasis(method=qr())
    """
    return Method("qr()", None, tracked_basis(qr_basis))
