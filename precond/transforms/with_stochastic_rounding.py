"""Round bfloat16 parameters at random, so that small steps are not lost."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from precond.arguments import check_transformation, check_whole, described
from precond.blocks import path_name, refuse_foreign
from precond.compiled_if_eager import compiled_if_eager
from precond.linalg import round_stochastically
from precond.transformation import transformation

__all__ = ["WithStochasticRoundingState", "with_stochastic_rounding"]


class WithStochasticRoundingState(NamedTuple):
    """Hold the state of `with_stochastic_rounding`.

    Attributes:
      count: the number of updates so far. With the seed it is the whole state of the noise.
      inner: the state of the optimizer.
    """

    count: jax.Array
    inner: optax.OptState

    needs_narrow_params = True  # for `widened`, which would hide them


@described(explain=True)
def with_stochastic_rounding(
    optimizer: optax.GradientTransformation, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Round parameters of bfloat16 up or down by chance, so that weight decay and small updates are not lost.

    $$w \leftarrow \hat x, \quad x = w + u, \quad \mathrm{P}(\text{up}) =
      \frac{x - x_\downarrow}{x_\uparrow - x_\downarrow}, \quad E[\hat x] = x$$

    Here u is the optimizer's update, x the sum in float32, and $x_\downarrow \le x \le x_\uparrow$ are its neighbours
    in bfloat16. Those are $2^{-8}$ of x apart or more: rounding to the nearest swallows each update that is smaller
    than half of this, such as a learning rate of 1e-3 times a weight decay of 0.1, in every step.

    The optimizer sees gradients and parameters in float32 and keeps its state so. Updates of these parameters are
    returned in float32, and are such that `optax.apply_updates(params, updates)` gives $\hat x$. Parameters of float32
    or wider are updated as ever. The noise depends on the seed, the number of the step and the path of the parameter
    alone: it is the same on every mesh, and after a restart. Inside of your own `jax.shard_map`, where a device knows
    nothing of the others, equal places of different shards have the same noise; so have the members of a `jax.vmap`.

    Args:
      optimizer: a whole optimizer, learning rate and weight decay included. Nothing may follow it.
      seed: two runs with the same seed round in the same way.

    Returns:
      An Optax optimizer, whose `update` needs the parameters.

    Raises:
      ValueError, TypeError: for a seed that is not an integer of at least 0, and for anything but a transformation; in
        `init` for parameters of another type below float32; in `update` without parameters.

    Reference:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, Deep Learning with Limited Numerical Precision, 2015.

    Examples:
      >>> params = jnp.ones(1000, jnp.bfloat16)
      >>> tx = with_stochastic_rounding(optax.sgd(1.0))
      >>> updates, state = tx.update(jnp.full(1000, 1 / 1024), tx.init(params), params)
      >>> new = optax.apply_updates(params, updates)
      >>> # A quarter of all places are rounded down.
      >>> (
      ...     new.dtype.name,
      ...     sorted(set(new.tolist())),
      ... )
      ('bfloat16', [0.99609375, 1.0])
    """
    check_transformation("optimizer", optimizer)
    check_whole("seed", seed, least=0)
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> WithStochasticRoundingState:
        _check_dtypes(params)
        return WithStochasticRoundingState(jnp.zeros([], jnp.int32), optimizer.init(_wide(params)))

    def update(
        updates: optax.Updates, state: WithStochasticRoundingState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, WithStochasticRoundingState]:
        if params is None:
            raise ValueError("with_stochastic_rounding needs the parameters: call tx.update(updates, state, params).")
        moved, inner = optimizer.update(_wide(updates), state.inner, _wide(params), **extra)
        # The default generator may give other bits on another mesh.
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.count)

        def one(path: Any, u: Any, p: Any) -> Any:
            return None if u is None else _to_rounded(jax.random.fold_in(key, _number(path)), u, p)

        out = jax.tree_util.tree_map_with_path(one, moved, params, is_leaf=lambda x: x is None)
        return out, WithStochasticRoundingState(jnp.asarray(optax.safe_increment(state.count)), inner)

    return refuse_foreign(compiled_if_eager(transformation(init, update)))


def _number(path: tuple[Any, ...]) -> int:
    """Return a number of 32 bits for the path of a parameter, so that its noise does not depend on other parameters."""
    return zlib.crc32(path_name(path).encode())


def _to_rounded(key: jax.Array, update: jax.Array, param: jax.Array) -> jax.Array:
    """Return the update that takes a parameter of bfloat16 to its rounded sum."""
    param = jnp.asarray(param)
    if param.dtype != jnp.bfloat16:
        return update.astype(param.dtype)
    wide = param.astype(jnp.float32)
    rounded = round_stochastically(wide + update, jax.random.bits(key, param.shape, jnp.uint16))
    return rounded.astype(jnp.float32) - wide


def _wide(tree: Any) -> Any:
    def wide(x: Any) -> Any:
        return x.astype(jnp.float32) if getattr(x, "dtype", None) == jnp.bfloat16 else x

    return jax.tree.map(wide, tree)


def _check_dtypes(params: optax.Params) -> None:
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(x)
        if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4 and dtype != jnp.bfloat16:
            raise TypeError(
                f"'{path_name(path)}' is of {dtype}, and with_stochastic_rounding rounds to bfloat16 alone: keep this "
                f"parameter in float32, or leave it out with optax.masked."
            )
