"""Define the kind of embeddings: products with one-hot vectors, whose factor of the inputs is diagonal."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from precond.blocks import Layer
from precond.layers.kinds.kind import Kind, Rows, Signals, count_of, gram, mask_by_row, squares
from precond.layers.sharing import Sharing

__all__ = ["Embed"]


@dataclasses.dataclass(frozen=True)
class Embed(Kind):
    """Describe a look-up of rows. A is the diagonal of the rows' frequencies, and every position is an example.

    Attributes:
      vocabulary: the number of rows.
      bias: an embedding has none.
    """

    vocabulary: int
    bias: bool = dataclasses.field(default=False, init=False)
    weights_name = "embedding"

    def layer(self, kernel: str, bias: str | None, shape: tuple[int, ...]) -> Layer:
        """Return the layer: one matrix `[vocabulary, features]` with a diagonal factor of its rows."""
        return Layer(kernel, bias, len(shape) - 2, shape[-2:], (), (0,), (1,), diagonal=True)

    def signals(self, x: jax.Array, g: jax.Array, batch: int) -> Signals:
        """Return the indices, `[n, t]`, and the cotangents."""
        n = count_of(x.shape, batch)
        return Signals(x.reshape(n, -1), g.reshape(n, -1, 1, g.shape[-1]))

    def rows(self, signals: Signals, sharing: Sharing, mask: jax.Array | None) -> Rows:
        """Return one row for each look-up, under every sharing rule."""
        del sharing
        indices, g = signals
        assert g is not None
        mask = mask_by_row(mask, indices.shape[:2])
        return Rows(indices, g, jnp.ones(indices.shape, g.dtype) if mask is None else mask.astype(g.dtype))

    def sums(self, rows: Rows) -> dict[str, jax.Array]:
        """Return how often each row was looked up, `[vocabulary]`, and the sum for the outputs."""
        indices, g, weights = rows
        assert g is not None
        zeros = jnp.zeros((self.vocabulary,), weights.dtype)
        return {"inputs": zeros.at[indices.reshape(-1)].add(weights.reshape(-1)), "outputs": gram(g)}

    def gradient(self, signals: Signals) -> jax.Array:
        """Return the sum of the cotangents of each row."""
        indices, g = signals
        assert g is not None
        return self._added(indices, g)

    def moments(self, rows: Rows, bases: Mapping[str, jax.Array]) -> jax.Array:
        """Return the sum of the squared cotangents of each row, in the basis of the outputs."""
        indices, g, weights = rows
        assert g is not None
        return self._added(indices, squares(g, bases.get("outputs")) * weights[:, :, None, None])

    def _added(self, indices: jax.Array, values: jax.Array) -> jax.Array:
        """Add values `[n, t, 1, o]` to the rows `[1, vocabulary, o]` that the indices name."""
        width = values.shape[-1]
        zeros = jnp.zeros((1, self.vocabulary, width), values.dtype)
        return zeros.at[:, indices.reshape(-1)].add(values.reshape(1, -1, width))

    def label(self, sharing: str) -> str:
        """Return the kind for the coverage table; no sharing rule acts on it."""
        del sharing
        return "embed"
