"""Learn a step size and a gain of each coordinate around any transformation, by exponentiated gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, check_number, described
from precond.blocks import refuse_divided
from precond.linalg.divide import divide_or_zero
from precond.transformation import transformation
from precond.trees import Leaf, Tree, real_dtype, tree_product, wide_dtype

__all__ = ["Alignment", "ExponentiatedState", "cosine", "exponentiated", "inner_product"]

Alignment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""A function from the inner products ⟨x, y⟩, ⟨x, x⟩ and ⟨y, y⟩ to a number that tells how well x and y agree."""


class ExponentiatedState(NamedTuple):
    """Hold the state of `exponentiated`.

    Attributes:
      count: the number of updates seen.
      scale: the factor of the step size.
      last: the last update of the inner transformation, float32 or wider.
      gains: the gain of each coordinate; None without a `gain_rate`.
      average: the moving average of the gradient; None without a `gain_rate`.
      inner: the state of the inner transformation.
    """

    count: jax.Array
    scale: jax.Array
    last: Tree
    gains: Tree | None
    average: Tree | None
    inner: optax.OptState


@described()
def cosine(product: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """Return the cosine of the angle; for single coordinates, the product of their signs.

    Args:
      product: ⟨x, y⟩.
      left: ⟨x, x⟩.
      right: ⟨y, y⟩.

    Examples:
      >>> cosine(jnp.asarray(-6.0), jnp.asarray(4.0), jnp.asarray(9.0)).item()
      -1.0
    """
    # Two roots are taken, since the product of squares may vanish where the squares do not.
    lengths = jnp.sqrt(left) * jnp.sqrt(right)
    return divide_or_zero(product, lengths)


def inner_product(product: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """Return the inner product itself, in the units of the gradients.

    Args:
      product: ⟨x, y⟩.
      left: ⟨x, x⟩, unused.
      right: ⟨y, y⟩, unused.

    Examples:
      >>> inner_product(jnp.asarray(-6.0), jnp.asarray(4.0), jnp.asarray(9.0)).item()
      -6.0
    """
    del left, right
    return product


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply two arrays; complex numbers count as pairs of real ones."""
    return jnp.real(jnp.conj(x) * y)


@described()
def exponentiated(
    inner: optax.GradientTransformation,
    rate: ArrayLike = 0.01,
    *,
    gain_rate: ArrayLike | None = None,
    decay: ArrayLike = 0.9,
    alignment: Alignment = cosine,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply the inner transformation's update by a scale that grows while successive steps agree.

    $$s \leftarrow s \, e^{\gamma_s a(h_{-1}, g)}, \quad p \leftarrow p \odot e^{\gamma_p a(m, g)}, \quad
      m \leftarrow \beta m + (1 - \beta) g, \quad h = \text{inner}(p \odot g), \quad \text{update} = s h$$

    Here s is one number, and p has a gain for each coordinate if there is a `gain_rate`. The number a tells how well
    two gradients agree: over all coordinates for s, in the one coordinate for p. Exponents are held between -1 and 1.

    This is second-hand: we know the update rules from summaries of the paper, where a is the inner product. We
    remember, but have not checked, that the paper normalises. `precond.contrib.cosine` makes both rates independent of
    the gradient's units; this normalisation is our choice, and so is the bound of the exponents. Compare with the paper
    before you cite this for it.

    Args:
      inner: a transformation in front of the learning rate, whose updates have the signs of gradients.
      rate: $\gamma_s$.
      gain_rate: $\gamma_p$; None has no gains and keeps nothing for them.
      decay: $\beta$, the decay of the average with which the gains compare the gradient.
      alignment: a, `precond.contrib.cosine` or `precond.contrib.inner_product`.

    Returns:
      A transformation; updates have the dtype of the gradients.

    Raises:
      ValueError, TypeError: for a number out of range.

    Reference:
      Amid, Anil, Fifty and Warmuth, Step-size Adaptation Using Exponentiated Gradient Updates, 2022 (second-hand).

    Examples:
      >>> tx, g = exponentiated(optax.identity(), rate=0.5), jnp.asarray([1.0, 0.0])
      >>> _, state = tx.update(g, tx.init(g))
      >>> updates, state = tx.update(g, state)
      >>> round(state.scale.item(), 4)  # exp(0.5)
      1.6487
    """
    check_number("rate", rate, 0)
    check_decay("decay", decay)
    if gain_rate is not None:
        check_number("gain_rate", gain_rate, 0)
    inner = optax.with_extra_args_support(inner)

    def factor(speed: ArrayLike, agreement: jax.Array) -> jax.Array:
        return jnp.exp(jnp.clip(jnp.asarray(speed, agreement.dtype) * agreement, -1, 1))

    def init(params: optax.Params) -> ExponentiatedState:
        def filled(value: float) -> Tree:
            def one(p: Leaf) -> jax.Array:
                dtype = wide_dtype(p)
                return jnp.full_like(p, value, dtype=jnp.finfo(dtype).dtype if value else dtype)

            return jax.tree.map(one, params)

        gains, average = (None, None) if gain_rate is None else (filled(1.0), filled(0.0))
        scale = jnp.ones([], jnp.result_type(float))
        return ExponentiatedState(jnp.zeros([], jnp.int32), scale, filled(0.0), gains, average, inner.init(params))

    def learned(speed: ArrayLike, g: Tree, gains: Tree, average: Tree) -> tuple[Tree, Tree]:
        def gain(p: jax.Array, m: jax.Array, x: jax.Array) -> jax.Array:
            return p * factor(speed, alignment(_product(m, x), _product(m, m), _product(x, x)))

        return jax.tree.map(gain, gains, average, g), optax.tree.update_moment(g, average, decay, 1)

    def update(
        updates: optax.Updates, state: ExponentiatedState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, ExponentiatedState]:
        refuse_divided("exponentiated", extra.get("blocks"))
        g = jax.tree.map(lambda x, h: jnp.asarray(x, h.dtype), updates, state.last)
        agreement = alignment(tree_product(state.last, g), tree_product(state.last, state.last), tree_product(g, g))
        scale = (state.scale * factor(rate, agreement)).astype(state.scale.dtype)
        seen, gains, average = updates, state.gains, state.average
        if gain_rate is not None and gains is not None and average is not None:
            gains, average = learned(gain_rate, g, gains, average)
            seen = jax.tree.map(lambda x, p: (p * x).astype(jnp.result_type(x)), updates, gains)
        steps, inside = inner.update(seen, state.inner, params, **extra)
        last = jax.tree.map(lambda h, x: x.astype(h.dtype), state.last, steps)

        def scaled(h: jax.Array, x: ArrayLike) -> jax.Array:
            return (scale.astype(real_dtype(h)) * h).astype(jnp.result_type(x))

        out = jax.tree.map(scaled, last, updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        return out, ExponentiatedState(count, scale, last, gains, average, inside)

    return transformation(init, update)
