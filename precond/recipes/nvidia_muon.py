"""Follow NVIDIA's Muon, with the second moments of NorMuon and AdaMuon."""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import (
    as_direction,
    check_choice,
    check_decay,
    check_number,
    check_part,
    check_rate,
    check_transformation,
    check_whole,
    described,
)
from precond.blocks import View, Views, refuse_stacks
from precond.engine import blocked, per_block
from precond.mesh import Sharded
from precond.orthogonal import OddPolynomial, Orthogonalizer, Scale, deepseek, dion, jordan, match_rms, newton_schulz
from precond.transformation import transformation
from precond.transforms import orthogonalize
from precond.transforms.normalize_neurons import NormalizeNeuronsState

__all__ = ["nvidia_coefficients", "nvidia_muon", "nvidia_normuon"]

_ROUNDED = (
    *((8.2051, -22.9019, 16.4607), (4.0664, -2.8612, 0.5184), (3.9096, -2.8234, 0.5250), (3.2856, -2.4153, 0.4853)),
    *((2.2779, -1.6198, 0.3985), (1.8726, -1.2307, 0.3585), (1.8564, -1.2132, 0.3568), (1.8750, -1.2500, 0.3750)),
)
_CANS = (
    *((8.4703, -25.1081, 18.6293), (4.1828, -3.1087, 0.5806), (3.9619, -2.9541, 0.5630), (3.2866, -2.4647, 0.5074)),
    (2.2737, -1.6447, 0.4162),
)
_AOL = ((4.0098, -7.0585, 2.4635), (3.4585, -5.5479, 2.5959), (2.7573, -3.2939, 1.4254), (2.7215, -3.0494, 1.3169))
_CUBIC = (
    *((3.3656576, -3.3420992), (2.5744352, -1.4957376), (2.5368962, -1.4312570), (2.4418906, -1.2764040)),
    (2.2230472, -0.9630650),
)
# Each with whether more steps than it has begin again, in place of repeating the last.
_SETS: dict[str, tuple[Sequence[Sequence[float]], bool]] = {
    "simple": (jordan(1), True),
    "quintic": (dion(), True),
    "polar_express": (_ROUNDED, False),
    "cans": (_CANS, False),
    "aol": (_AOL, True),
    "deepseekv4": (deepseek(), False),
    "cubic5": (_CUBIC, True),
}
_DECAYS = ("decoupled", "independent", "l2", "palm")


@described()
def nvidia_coefficients(coefficient_type: str = "quintic", num_ns_steps: int = 5) -> tuple[OddPolynomial, ...]:
    """Return a set of polynomials by NVIDIA's name, with NVIDIA's digits.

    With more steps than a set has, "polar_express", "cans" and "deepseekv4" repeat their last polynomial, and the other
    sets begin again. With fewer steps a set is cut off.

    Args:
      coefficient_type: "simple" (Jordan's), "quintic" (Dion's), "polar_express" (rounded to four digits), "cans",
        "aol", "deepseekv4" or "cubic5".
      num_ns_steps: how many polynomials.

    Raises:
      ValueError, TypeError: for another name, for a number of steps that is not a positive integer, and for "cubic5"
        with a number of steps other than 5.

    Examples:
      >>> nvidia_coefficients("polar_express", 9)[-1]
      OddPolynomial(linear=1.875, cubic=-1.25, quintic=0.375)
      >>> len(nvidia_coefficients("deepseekv4"))
      5
    """
    check_choice("coefficient_type", coefficient_type, tuple(_SETS))
    check_whole("num_ns_steps", num_ns_steps, least=1)
    found, again = _SETS[coefficient_type]
    if coefficient_type == "cubic5" and num_ns_steps != len(found):
        raise ValueError(
            f"num_ns_steps={num_ns_steps}: must be 5 with 'cubic5', whose polynomials belong together. Give "
            "precond.orthogonal.newton_schulz() coefficients of your own for another number."
        )
    endless = cycle(found) if again else (*found, *[found[-1]] * num_ns_steps)
    return tuple(OddPolynomial(*p) for p in islice(endless, num_ns_steps))


@described()
def nvidia_normuon(beta2: ArrayLike = 0.95, eps: ArrayLike = 1e-8) -> optax.GradientTransformationExtraArgs:
    r"""Divide rows, or columns, by the root of their average square as NVIDIA's NorMuon does.

    $$V \leftarrow \beta V + (1 - \beta) \, \mathrm{mean}(O \odot O), \quad
      \hat O = \frac{O}{\sqrt{\max(V, \epsilon)}}, \quad O \leftarrow \hat O \frac{\|O\|}{\max(\|\hat O\|, \epsilon)}$$

    The mean is over the columns of a matrix with at least as many rows, and over the rows of any other. That of
    `precond.transforms.normalize_neurons` is over the inputs of a neuron, for every shape.

    Args:
      beta2: $\beta$.
      eps: $\epsilon$.

    Returns:
      A transformation of single matrices, for `moment2=` of `precond.recipes.nvidia_muon`.

    Raises:
      ValueError, TypeError: for a number out of range.

    Examples:
      >>> tx, g = nvidia_normuon(), jnp.asarray([[3.0, 3.0], [1.0, 1.0]])
      >>> [[round(x, 3) for x in row] for row in tx.update(g, tx.init(g))[0].tolist()]
      [[2.236, 2.236], [2.236, 2.236]]
    """
    check_decay("beta2", beta2)
    check_number("eps", eps, 0)

    def mean(x: jax.Array) -> jax.Array:
        if x.ndim != 2:
            raise ValueError(
                f"nvidia_normuon() takes single matrices, but was given an array of shape {x.shape}. Among stacks, put "
                "it into precond.per_block."
            )
        return jnp.mean(x, axis=1 if x.shape[0] >= x.shape[1] else 0, keepdims=True)

    def init(params: Any) -> NormalizeNeuronsState:
        return NormalizeNeuronsState(jax.tree.map(lambda x: mean(jnp.zeros_like(x)), params))

    def divided(x: jax.Array, v: jax.Array) -> jax.Array:
        even = x * jnp.maximum(v, eps) ** -0.5
        return even * (jnp.linalg.norm(x) / jnp.maximum(jnp.linalg.norm(even), eps))

    def update(
        updates: Any, state: NormalizeNeuronsState, params: Any = None, *, blocks: Any = None, **extra: Any
    ) -> tuple[Any, NormalizeNeuronsState]:
        del params, extra
        refuse_stacks("nvidia_normuon", blocks)
        moment = jax.tree.map(lambda x, v: beta2 * v + (1 - beta2) * mean(x**2), updates, state.moment)
        return jax.tree.map(divided, updates, moment), NormalizeNeuronsState(moment)

    return transformation(init, update)


def _matrices(path: str, leaf: Any) -> View | None:
    del path
    return View((0, 1)) if leaf.ndim == 2 else None


@described(sign=-1)
def nvidia_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    nesterov: bool = False,
    weight_decay_method: Literal["decoupled", "independent", "l2", "palm"] = "decoupled",
    method: Orthogonalizer | None = None,
    scale: Scale | None = None,
    extra_scale_factor: float = 1.0,
    moment2: optax.GradientTransformation | None = None,
    views: Views | Sequence[Any] | None = None,
    otherwise: optax.GradientTransformation | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follow `Muon` and `AdaptiveMuon` step by step.

    The momentum is orthogonalized, divided by a second moment where there is one, and then scaled. Rows are outputs
    there, as in all of PyTorch. Theirs refuses a parameter that is not a matrix. Here every parameter of two axes is a
    matrix, embeddings among them, and the others get Adam's update. Theirs divides a momentum by 1e-15 where its norm
    is less, and here a matrix of any norm is orthogonalized.

    Args:
      learning_rate: $\eta$; a number or a schedule.
      momentum: decay of the average of the gradients.
      weight_decay: $\lambda$.
      nesterov: whether the newest gradient counts once more.
      weight_decay_method: what is taken from the parameters in each step: $\eta \lambda W$ for "decoupled",
        $\lambda W$ for "independent", $\eta^2 \lambda W$ for "palm". "l2" adds $\lambda W$ to the gradient.
      method: None is `precond.orthogonal.newton_schulz(precond.recipes.nvidia_coefficients("quintic"))`. As theirs, it
        multiplies in bfloat16 on accelerators (`fp32_matmul_prec="medium"`) unless its `dtype` says otherwise.
      scale: `precond.orthogonal.match_rms(1.0)` is "spectral" (None), `width(outputs=0)` is "shape_scaling" and
        `unit_rms_norm(outputs=0)` is "unit_rms_norm".
      extra_scale_factor: multiplies the update.
      moment2: a transformation of single matrices. `precond.recipes.nvidia_normuon()` makes it "normuon", and
        `optax.scale_by_rms(0.95, 1e-8, eps_in_sqrt=False)` makes it "adamuon". None leaves it out.
      views: as in `precond.blocked`, in place of parameters of two axes: heads or the parts of a fused kernel.
      otherwise: the transformation of parameters without a view, in place of Adam.
      axis: mesh axes over whose devices matrices are divided, as in `precond.blocked`; the trajectory is the same.
      mesh: the mesh, as in `precond.blocked`.

    Raises:
      ValueError, TypeError: for a number out of range, or a part of another kind.

    Examples:
      >>> tx, w = nvidia_muon(0.5, weight_decay=0.0), jnp.diag(jnp.asarray([3.0, -2.0]))
      >>> updates = jnp.diag(tx.update(w, tx.init(w), w)[0])
      >>> jnp.sign(updates).tolist(), bool(jnp.max(jnp.abs(jnp.abs(updates) - 0.75)) < 0.06)
      ([-1.0, 1.0], True)
    """
    check_rate("learning_rate", learning_rate)
    check_number("weight_decay", weight_decay, 0)
    check_number("extra_scale_factor", extra_scale_factor, 0)
    check_decay("momentum", momentum)
    check_choice("weight_decay_method", weight_decay_method, _DECAYS)
    factor = (match_rms(1.0) if scale is None else scale).factor

    def scale_one(x: jax.Array) -> jax.Array:
        rows, columns = x.shape if x.ndim == 2 else (*x.shape, 1)
        return x * (factor(rows, columns) * extra_scale_factor)

    scaled = optax.stateless(lambda updates, params: jax.tree.map(scale_one, updates))
    if moment2 is not None:
        check_transformation("moment2", moment2)
        scaled = optax.chain(moment2, scaled)
    average = per_block(optax.trace(momentum, nesterov=nesterov))  # theirs goes the same way
    method = newton_schulz(nvidia_coefficients()) if method is None else method
    check_part("method", method, Orthogonalizer, "precond.orthogonal.newton_schulz()")
    if method.block_size is not None:
        raise ValueError(
            f"method={method.name}: NVIDIA's Muon scales by the sides of whole matrices, so blocks would be too long. "
            "Use precond.muon, which scales each block by its own sides."
        )
    tx = blocked(
        as_direction(optax.chain(average, orthogonalize(method), per_block(scaled))),
        block_size=None,
        views=_matrices if views is None else views,
        otherwise=as_direction(optax.scale_by_adam(0.9, 0.95)) if otherwise is None else otherwise,
        axis=axis,
        mesh=mesh,
    )
    step = optax.scale_by_learning_rate(learning_rate)
    if weight_decay_method == "l2":
        return optax.chain(optax.add_decayed_weights(weight_decay), tx, step)
    if weight_decay_method == "independent":
        return optax.chain(tx, step, optax.add_decayed_weights(-weight_decay))
    if weight_decay_method == "decoupled":
        return optax.chain(tx, optax.add_decayed_weights(weight_decay), step)
    squared = (lambda t: learning_rate(t) * weight_decay) if callable(learning_rate) else learning_rate * weight_decay
    return optax.chain(tx, optax.add_decayed_weights(squared), step)
