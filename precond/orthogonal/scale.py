"""Choose how large an orthogonalized update is, by the sides of its matrix."""

from collections.abc import Callable
from typing import NamedTuple

from jax.typing import ArrayLike

from precond.arguments import check_number, described, shown

__all__ = ["Scale", "match_rms", "unit_rms_norm", "width"]


class Scale(NamedTuple):
    """Say by what number an orthogonalized matrix is multiplied.

    Attributes:
      name: what the user types to get it, for errors.
      factor: a function from the numbers of rows and columns to a number. In Flax's kernels rows are inputs and columns
        outputs.
      symmetric: whether rows and columns may be exchanged. Tall and wide matrices then share a stack.
    """

    name: str
    factor: Callable[[int, int], ArrayLike]
    symmetric: bool = False

    def __repr__(self) -> str:
        """Return what the user types to get it."""
        return self.name


@described()
def width(*, outputs: int = 1) -> Scale:
    r"""Scale by the shape of the matrix, as the original Muon does.

    The scale is $\sqrt{\max(1, \text{outputs} / \text{inputs})}$.

    With it about the same learning rate is good at every width of a network. It is larger than AdamW's: 0.02 is usual.

    Args:
      outputs: which side of a matrix counts outputs: 1, columns, for kernels `[inputs, outputs]` as those of Flax; 0,
        rows, for weights `[outputs, inputs]` as those of PyTorch and Equinox.

    Raises:
      ValueError: for a side other than 0 and 1.

    Reference:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Examples:
      >>> width().factor(256, 1024), width(outputs=0).factor(256, 1024)
      (2.0, 1.0)
    """
    _check_side(outputs)
    return Scale(_named("width", outputs), lambda *sides: max(1.0, sides[outputs] / sides[1 - outputs]) ** 0.5)


@described()
def unit_rms_norm(*, outputs: int = 1) -> Scale:
    r"""Scale so that inputs of root mean square 1 are moved by outputs of root mean square 1 or less.

    The scale is $\sqrt{\text{outputs} / \text{inputs}}$, which is below 1 for a matrix with more inputs than outputs.
    For matrices with at least as many outputs as inputs it is `width`.

    Args:
      outputs: which side of a matrix counts outputs, as in `precond.orthogonal.width`.

    Raises:
      ValueError: for a side other than 0 and 1.

    Reference:
      Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, 2025.

    Examples:
      >>> unit_rms_norm().factor(256, 1024), unit_rms_norm(outputs=0).factor(256, 1024)
      (2.0, 0.5)
    """
    _check_side(outputs)
    return Scale(_named("unit_rms_norm", outputs), lambda *sides: (sides[outputs] / sides[1 - outputs]) ** 0.5)


def _named(function: str, outputs: int) -> str:
    return f"{function}()" if outputs else f"{function}(outputs=0)"


def _check_side(outputs: int) -> None:
    if not isinstance(outputs, int) or outputs not in (0, 1):
        raise ValueError(f"outputs={outputs!r}: must be 1 where columns are outputs, or 0 where rows are.")


@described()
def match_rms(rms: ArrayLike = 0.2) -> Scale:
    r"""Scale so that the entries have about a given root mean square, for every shape.

    The scale is $\text{rms} \sqrt{\max(m, n)}$. It is exact if all singular values are 1. Jordan's polynomials leave a
    tenth less for a momentum of full rank. A momentum of a quarter of the full rank has half of it.

    The usual root mean square of AdamW's update is 0.2: the learning rate and the weight decay of AdamW then fit, and
    the same ones fit the parameters that are not matrices.

    Args:
      rms: the root mean square of the update.

    Raises:
      ValueError, TypeError: for a number below 0, or none.

    Reference:
      Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2.

    Examples:
      >>> match_rms(0.25).factor(256, 64)
      4.0
    """
    check_number("rms", rms, 0)
    return Scale(f"match_rms({shown(rms)})", lambda rows, columns: rms * max(rows, columns) ** 0.5, symmetric=True)
