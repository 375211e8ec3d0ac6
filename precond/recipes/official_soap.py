"""Follow the official SOAP."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from precond.arguments import check_decay, check_rate, check_whole, described
from precond.blocks import View, Views, refuse_foreign, tensors
from precond.compiled_if_eager import compiled_if_eager
from precond.engine import blocked, every, scale_by_kronecker
from precond.linalg import Precision
from precond.mesh import Sharded
from precond.roots import Checked, Health, Root, eigenbasis, qr
from precond.roots.root import Power
from precond.statistics import outer_products
from precond.transforms import normalize, scale_by_diagonal
from precond.trees import Leaf

__all__ = ["official_soap"]


def _channels_last(views: Views) -> Views:
    """Read images' kernels `[out, h, w, in]` as `[out, in, h, w]` first, so that other axes are neighbours."""
    order = (0, 3, 1, 2)

    def read(path: str, leaf: Leaf) -> View | None:
        if len(leaf.shape) != len(order):
            return views(path, leaf)
        view = views(path, jax.ShapeDtypeStruct([leaf.shape[i] for i in order], leaf.dtype))
        if view is None or view.shape is None:
            return view
        groups, rest = [], [i for i in order if leaf.shape[i] != 1]
        for size in view.shape:
            group: list[int] = []
            while rest and math.prod(leaf.shape[i] for i in group) < size:
                group.append(rest.pop(0))
            groups.append(tuple(group) or (order[0],))
        return View(tuple(groups), view.passive)

    return read


def _unit_rms() -> optax.GradientTransformationExtraArgs:
    """Scale updates to a root mean square of 1, by parameter."""
    grown = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u * math.sqrt(u.size), updates))
    return optax.chain(normalize(1e-30), grown)


@described(sign=-1)
def official_soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    merge: int = 0,
    channels_last: bool = False,
    precondition_1d: bool = False,
    normalize_grads: bool = False,
    bias_correction: bool = True,
    precision: Precision | None = None,
    axis: str | Sequence[str] | Sharded | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Follow `nikhilvyas/SOAP`, step by step.

    The first call feeds the statistics alone and moves nothing. From then on, with $s$ the calls after the first,

    $$W \leftarrow (1 - \eta \lambda) \Big(W - \eta \frac{\sqrt{1 - \beta_2^s}}{1 - \beta_1^s} P\Big)$$

    where $P$ is Adam's direction without bias correction, in the eigenbasis as it was before this gradient.

    Args:
      learning_rate: $\eta$, a number or a schedule of all calls, the first included.
      b1: the decay of the momentum.
      b2: the decay of the second moment.
      shampoo_beta: the decay of the factors; None takes `b2`.
      eps: added to the root of the (uncorrected) second moment.
      weight_decay: $\lambda$, decoupled, applied after the step.
      precondition_frequency: steps between two QR refreshes.
      max_precond_dim: a longer axis keeps its own basis.
      merge: merge neighbouring axes up to this size (`merge_dims` takes `max_precond_dim`); 0 merges none.
      channels_last: merge the axes of a tensor of four in the order 0, 3, 1, 2 (`data_format`).
      precondition_1d: whether vectors have a factor too; else they get plain Adam.
      normalize_grads: scale each parameter's P to a root mean square of 1.
      bias_correction: off leaves out the ratio above.
      precision: the precision of matrix products, as in `precond.scale_by_kronecker`; None is the highest.
      axis: mesh axes over whose devices blocks are divided, as in `precond.blocked`; the reference's trajectory on any.
      mesh: as in `precond.blocked`.

    Examples:
      >>> tx, w = official_soap(0.1), jnp.ones((3, 2))
      >>> tx.update(w, tx.init(w), w)[0].any().item()
      False
    """
    check_rate("learning_rate", learning_rate)
    check_rate("weight_decay", weight_decay)
    check_decay("b1", b1)
    check_whole("max_precond_dim", max_precond_dim, least=1)
    check_whole("merge", merge, least=0)

    def rate(count: ArrayLike) -> jax.Array:
        # The parts that wait for the second call count from there.
        return jnp.asarray(learning_rate(jnp.asarray(count) + 1) if callable(learning_rate) else learning_rate)

    def step_size(count: ArrayLike) -> jax.Array:
        size = -rate(count) * (1 - rate(count) * weight_decay)
        if not bias_correction:
            return size
        s = (jnp.asarray(count) + 1).astype(jnp.result_type(float))
        return size * jnp.sqrt(1 - jnp.asarray(b2) ** s) / (1 - jnp.asarray(b1) ** s)

    def after_first(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
        return optax.conditionally_mask(tx, lambda step, **_: jnp.asarray(step) >= 1)

    direction = scale_by_kronecker(
        outer_products(b2 if shampoo_beta is None else shampoo_beta, bias_correction=False),
        _decomposed_once(eigenbasis(b2, eps=eps, bias_correction=False, method=qr())),
        momentum=optax.ema(b1, debias=False),
        refresh=every(precondition_frequency, delay=1, warmup=1),
        precision=precision,
    )
    adam = scale_by_diagonal(b2, eps=eps, momentum=optax.ema(b1, debias=False))
    views = tensors(min_rank=1 if precondition_1d else 2, merge=merge, max_size=max_precond_dim)
    if channels_last and merge:
        views = _channels_last(views)
    step = optax.chain(
        _unit_rms() if normalize_grads else optax.identity(),
        optax.scale_by_schedule(step_size),
        optax.add_decayed_weights((lambda count: -rate(count) * weight_decay) if weight_decay else 0.0),
    )
    both = optax.chain(
        blocked(direction, block_size=None, views=views, otherwise=after_first(adam), axis=axis, mesh=mesh),
        after_first(step),
    )
    return refuse_foreign(compiled_if_eager(both))  # outside of jit, Optax would compile its condition in every call


def _decomposed_once(root: Root) -> Root:
    """Decompose factors at the first step alone, those that are zero by then included, as the official code does."""

    def refresh(factors: jax.Array, derived: Checked, power: Power, first: jax.Array) -> Checked:
        known = Health(derived.health.numbers.at[:, 2].max(1))
        return root.refresh(factors, derived._replace(health=known), power, first)

    return root._replace(refresh=refresh, padding=None)
