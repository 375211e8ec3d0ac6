"""Round to bfloat16 at random, so that the mean is right."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_whole, described
from precond.blocks import BlockInfo, info_of
from precond.linalg import round_stochastically
from precond.transformation import transformation

__all__ = ["StochasticRoundingState", "stochastic_rounding"]


class StochasticRoundingState(NamedTuple):
    """Hold the state of `stochastic_rounding`.

    Attributes:
      count: the number of updates so far in which some block was finite. With the seed it is the whole state of the
        noise.
    """

    count: jax.Array


@described()
def stochastic_rounding(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    r"""Round stacks of blocks to bfloat16, up or down by chance, so that the mean stays the same.

    $$\mathrm{P}(\text{up}) = \frac{x - x_\downarrow}{x_\uparrow - x_\downarrow}, \qquad
      |\hat x - x| < 2^{-7} |x|, \qquad E[\hat x] = x$$

    Here $x_\downarrow \le x \le x_\uparrow$ are the neighbours of x in bfloat16. Rounding to the nearest is off by half
    as much at most, but in the same direction every time. So a small update of a large parameter can be lost in every
    step. Use it for `rounding=` of `precond.sharded`, or in a chain of transformations of stacks. The noise depends on
    the seed, the number of the step and the block's place in its stack alone: it is the same on every mesh, and after a
    restart.

    Args:
      seed: two runs with the same seed round in the same way.

    Returns:
      A transformation of stacks `[N, d1, .., dk]`. Its update is in bfloat16. `precond.BlockInfo.index` tells the place
      of each block in its stack; outside of `precond.blocked` the places are 0 to N - 1. Wider types than float32 are
      rounded to float32 first.

    Raises:
      ValueError, TypeError: for a seed that is not an integer of at least 0.

    Reference:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, Deep Learning with Limited Numerical Precision, 2015.

    Examples:
      >>> tx, stacks = stochastic_rounding(), {"1": jnp.full((1000, 1), 1 + 1 / 512)}
      >>> updates, state = tx.update(stacks, tx.init(stacks))
      >>> # A quarter of all blocks are rounded up.
      >>> sorted(set(updates["1"].ravel().tolist()))
      [1.0, 1.0078125]
      >>> abs(float(jnp.mean(updates["1"].astype(jnp.float32))) - (1 + 1 / 512)) < 3e-4
      True
    """
    check_whole("seed", seed, least=0)

    def init(params: optax.Params) -> StochasticRoundingState:
        del params
        return StochasticRoundingState(jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates,
        state: StochasticRoundingState,
        params: optax.Params | None = None,
        *,
        blocks: BlockInfo | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, StochasticRoundingState]:
        del params, extra
        info = info_of(blocks)
        leaves, treedef = jax.tree.flatten(updates)
        rows = [jnp.arange(x.shape[0]) for x in leaves] if info.index is None else treedef.flatten_up_to(info.index)
        # The default generator may give a block other bits on another mesh.
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.count)
        out = [_rounded(jax.random.fold_in(key, i), *pair) for i, pair in enumerate(zip(leaves, rows, strict=True))]
        return treedef.unflatten(out), StochasticRoundingState(info.advance(state.count))

    return transformation(init, update)


def _rounded(key: jax.Array, stack: jax.Array, rows: jax.Array) -> jax.Array:
    def noise(row: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, row), stack.shape[1:], jnp.uint16)

    return round_stochastically(stack, jax.vmap(noise)(rows))
