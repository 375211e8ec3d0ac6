"""Define the interface of a kind of layer, and the signals and sums that it works with."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp

from precond.blocks import Layer
from precond.layers.sharing import Sharing
from precond.linalg import dot_precision

__all__ = ["Kind", "Rows", "Signals", "count_of", "gram", "mask_by_row", "squares", "with_one"]


class Signals(NamedTuple):
    r"""Hold what a layer saw in one call, by example n, shared position t and group r.

    The gradient of the layer's weights (the bias is their last row) is $\sum_{n,t} a_{nt} g_{nt}^\top$.

    Attributes:
      inputs: a, `[n, t, r, i]`. An embedding gives its indices, `[n, t]`, and a kind without outputs gives the gradient
        of each example, `[n, 1, r, i]`.
      outputs: g, the cotangents of the layer's output, `[n, t, r, o]`; None for a kind without outputs.
    """

    inputs: jax.Array
    outputs: jax.Array | None


class Rows(NamedTuple):
    """Hold the rows that factors are sums over: the signals after the sharing rule.

    Attributes:
      inputs: the inputs of the layer, `[n, t, r, i]`, or in the form that the kind's signals have.
      outputs: the cotangents of its outputs, `[n, t, r, o]`, or None.
      weights: how much each row counts for the inputs, `[n, t]`: 0 for padding.
    """

    inputs: jax.Array
    outputs: jax.Array | None
    weights: jax.Array


class Kind(Protocol):
    r"""Say how one class of layer becomes matrices and factors; inherit from it to add a kind.

    A kind is a frozen dataclass. It must have a `bias`, a `layer` and `signals`. Everything else has a default for
    layers whose gradient is a sum of products $a g^\top$ and whose Fisher matrix is taken for $A \otimes G$. All arrays
    are traced, and all shapes in them are those of one call of the layer: scans and maps over layers need nothing.

    Attributes:
      bias: whether the layer adds a bias.
      weights_name: the usual name of the weights among the layer's parameters, for `precond.layers.explicit`.
      normalised: whether `signals` reads the layer's output before its scale and shift, in place of its input. The
        front ends compute it for modules with `use_scale` and `use_bias` (linen) or `scale` and `bias` (nnx).

    Examples:
      >>> class Gain(Kind):  # y = w x, with the exact Fisher matrix of all channels of w
      ...     bias, weights_name = False, "scale"
      ...
      ...     def layer(self, kernel, bias, shape):
      ...         return Layer(
      ...             kernel,
      ...             bias,
      ...             layer_ndim=len(shape) - 1,
      ...             shape=shape[-1:],
      ...             groups=(),
      ...             inputs=(0,),
      ...             outputs=(),
      ...         )
      ...
      ...     def signals(self, x, g, batch):
      ...         each = (
      ...             (x * g).reshape(count_of(x.shape, batch), -1, x.shape[-1]).sum(1)
      ...         )  # gradient of each example
      ...         return Signals(each[:, None, None], None)
      >>> Gain().layer("scale", None, (3,)).size
      (1, 3, 1)
    """

    bias: bool
    weights_name: str = "kernel"
    normalised: bool = False

    @abstractmethod
    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return where the parameters are and which matrices they make.

        Args:
          kernel: path of the weights.
          bias: path of the bias, or None.
          shape: the shape of the weights among the parameters. Scans and maps over layers put axes in front of it; they
            are the layer's `layer_ndim`.
        """
        ...

    @abstractmethod
    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the signals of one call.

        Args:
          x: the layer's input, in its own dtype. Cast it to `g.dtype`, unless it holds indices.
          g: the cotangent of its output, in the dtype of the sums.
          batch: how many leading axes number the examples: 1, or 0 for a model of one example that is mapped.
        """
        ...

    def without_bias(self) -> Self:
        """Return the same kind for a layer that has no bias among its parameters."""
        kind: Any = self
        return dataclasses.replace(kind, bias=False)

    def rows(self, signals: Signals, sharing: Sharing, mask: jax.Array | None) -> Rows:
        """Return the rows that the factors are made of.

        A kind without outputs has one row for each example. No mask acts on it, as none acts on G: the cotangents of
        padding are zero.

        Args:
          signals: the signals of one call.
          sharing: the rule for shared positions; a kind may have its own and ignore this one.
          mask: the mask of the positions that are not padding, by the first axes of the layer's output; None counts
            all.
        """
        a, g = signals
        if g is None:
            return Rows(a, None, jnp.ones(a.shape[:2], a.dtype))
        return Rows(*sharing(a, g, mask_by_row(mask, a.shape[:2])))

    def sums(self, rows: Rows) -> dict[str, jax.Array]:
        r"""Return the factors' sums by name, each `[r, d, d]`, or `[d]` where the layer's inputs are `diagonal`.

        The default has `inputs`, $\sum w a a^\top$, and `outputs`, $\sum g g^\top$. `Layer.positions` asks for
        `positions`, too; a layer without outputs has `inputs` alone.

        Args:
          rows: the result of `rows`.
        """
        out = {"inputs": gram(rows.inputs, rows.weights)}
        return out if rows.outputs is None else out | {"outputs": gram(rows.outputs)}

    def gradient(self, signals: Signals) -> jax.Array:
        """Return the gradient of the weights as the signals have it, `[r, i, o]`, which the self-check compares.

        Args:
          signals: the signals of one call.
        """
        a, g = signals
        if g is None:
            return jnp.sum(a, axis=(0, 1))[..., None]
        return jnp.einsum("ntri,ntro->rio", a, g, precision=dot_precision())

    def moments(self, rows: Rows, bases: Mapping[str, jax.Array]) -> jax.Array:
        r"""Sum the squares of the rows' gradients in a basis, `[r, i, o]`: what EK-FAC has for eigenvalues.

        $$S = \sum_{n,t} w_{nt} (Q_A^\top a_{nt})^2 \otimes (Q_G^\top g_{nt})^2
        = \sum_{n,t} w_{nt} (Q_A^\top a_{nt} g_{nt}^\top Q_G)^2$$

        With `precond.layers.expand` every shared position is a row, as if it were an example; this is exact in
        expectation if positions have only the sum of their losses in common. With `precond.layers.reduce` every example
        is a row. The sum needs no more memory than the signals, and costs as much as the factors.

        Args:
          rows: the result of `rows`.
          bases: orthonormal columns: `inputs` `[i, i]` (`[r, i, i]` for groups) and `outputs` `[o, o]`. A missing entry
            is the identity.

        Reference:
          George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, 2018, equation
          10.
        """
        a, g, weights = rows
        if g is None:
            return jnp.sum(squares(a, bases.get("inputs")), axis=(0, 1))[..., None]
        weighted = squares(g, bases.get("outputs")) * weights[:, :, None, None]
        return jnp.einsum("ntri,ntro->rio", squares(a, bases.get("inputs")), weighted, precision=dot_precision())

    def label(self, sharing: str) -> str:
        """Return what the coverage table shows as the layer's kind.

        Args:
          sharing: the name of the sharing rule.
        """
        return f"{type(self).__name__.lower()}, {sharing}"


def count_of(shape: tuple[int, ...], batch: int) -> int:
    """Return how many examples the first `batch` axes of a shape number; 1 for none.

    Examples:
      >>> count_of((4, 5, 6), 1), count_of((5, 6), 0)
      (4, 1)
    """
    return math.prod(shape[:batch])


def with_one(x: jax.Array, bias: bool) -> jax.Array:
    """Append a one to each input of a layer with a bias: the bias is the weight of that input.

    Examples:
      >>> with_one(jnp.asarray([[2.0]]), bias=True).tolist()
      [[2.0, 1.0]]
    """
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], axis=-1) if bias else x


def gram(rows: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    r"""Return $\sum_{n,t} w_{nt} x_{nt} x_{nt}^\top$ for each group, `[r, d, d]`.

    Args:
      rows: x, `[n, t, r, d]`.
      weights: w, `[n, t]`; None counts each row once.

    Examples:
      >>> gram(
      ...     jnp.asarray([1.0, 2.0]).reshape(2, 1, 1, 1), jnp.asarray([[3.0], [1.0]])
      ... ).item()
      7.0
    """
    weighted = rows if weights is None else rows * weights[:, :, None, None]
    return jnp.einsum("ntri,ntrj->rij", weighted, rows, precision=dot_precision())


def squares(x: jax.Array, basis: jax.Array | None) -> jax.Array:
    """Return the squares of rows in a basis.

    Args:
      x: an array, `[n, t, r, d]`.
      basis: orthonormal columns, `[d, d]` or `[r, d, d]`; None is the identity.

    Examples:
      >>> squares(jnp.full((1, 1, 1, 1), 3.0), None).item()
      9.0
    """
    if basis is not None:
        columns = basis.reshape(-1, *basis.shape[-2:]).astype(x.dtype)
        x = jnp.einsum("ntri,rij->ntrj", x, columns, precision=dot_precision())
    return jnp.square(x)


def mask_by_row(mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
    """Read a mask of leading axes as one of rows `[n, t]`; axes that it does not have repeat it.

    Args:
      mask: a mask by the first axes of a layer's output, or None.
      shape: `(n, t)`.

    Raises:
      ValueError: if the mask has more entries than there are rows.

    Examples:
      >>> # There are two positions of two rows each.
      >>> mask_by_row(jnp.asarray([[True, False]]), (1, 4)).tolist()
      [[True, True, False, False]]
    """
    if mask is None or mask.size == math.prod(shape):
        return mask if mask is None else mask.reshape(shape)
    if mask.size == 0 or math.prod(shape) % mask.size:
        raise ValueError(
            f"valid of shape {mask.shape} does not divide the {shape[0]} x {shape[1]} positions of a layer: some of "
            "its axes number groups of that layer. Give a mask of the examples and positions alone."
        )
    return jnp.repeat(mask.reshape(-1), math.prod(shape) // mask.size).reshape(shape)
