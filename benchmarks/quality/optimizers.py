"""The optimizers: each is a function of the one number that is searched, and of the schedule's shape."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import precond
from benchmarks.quality.tasks import Task

# A root is used from the step after its refresh.
LATER: dict[str, Any] = {"refresh": precond.every(20, stagger=True, delay=1)}
# A gradient is read in the bases of its own step.
EVERY_TEN = precond.every(10, stagger=True, delay=1, warmup=1)  # as SOAP's
BASES_FIRST = precond.every(1, warmup=1)
Shape = Callable[[Any], Any]
ADAMS_NORM = precond.transforms.scale_by_diagonal(0.95, eps=1e-15, bias_correction=True)
ONE_MOMENT = precond.transforms.scale_by_mean_square(0.95)


class Method(NamedTuple):
    """An optimizer.

    Attributes:
      make: an optimizer, from the number, the shape of the schedule (1 at its peak) and the task's captured layers.
      middle: of the numbers that are tried, from the task.
      documented: the number that the pages advise, if it is not AdamW's best rate.
      first_order: whether it may set the target.
      only: the tasks on which it runs; none of them means all.
      factors: whether it needs those of captured layers.
      measured: whether second moments are measured in the bases of its state, too.
      larger: of a method with a smaller state, the one whose state it makes smaller. It is trained at the numbers of
        this one, too.
    """

    make: Callable[..., optax.GradientTransformation]
    middle: Callable[[Task], float] = lambda task: task.rate
    documented: float | None = None
    first_order: bool = False
    only: tuple[str, ...] = ()
    factors: bool = False
    measured: bool = False
    larger: str | None = None


def of_rate(optimizer: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """One that takes a schedule first."""
    return lambda number, shape, layers: optimizer(lambda count: number * shape(count), **options)


def of_damping(optimizer: Callable[..., Any], rate: float = 0.3, bound: float = 1e-2) -> Callable[..., Any]:
    """K-FAC or EK-FAC, at the documented rate and bound: the damping is what one tunes first."""
    return lambda number, shape, layers: optimizer(
        lambda count: rate * shape(count), layers, damping=number, bound=bound
    )


METHODS = {
    "adamw": Method(of_rate(optax.adamw, b2=0.95, weight_decay=0.0), first_order=True),
    "nesterov": Method(
        of_rate(optax.sgd, momentum=0.9, nesterov=True), middle=lambda task: task.nesterov, first_order=True
    ),
    "optax muon": Method(of_rate(optax.contrib.muon, adam_b2=0.95), first_order=True),
    "shampoo": Method(of_rate(precond.shampoo)),
    "shampoo, delay 1": Method(of_rate(precond.shampoo, **LATER)),
    "shampoo, power 1/4": Method(of_rate(precond.shampoo, **LATER, power=None)),
    "shampoo, power 3/8": Method(of_rate(precond.shampoo, **LATER, power=3 / 8)),
    "shampoo, power 1/2": Method(of_rate(precond.shampoo, **LATER, power=1 / 2)),
    "shampoo, one moment a block": Method(
        of_rate(precond.shampoo, **LATER, magnitude=ONE_MOMENT), larger="shampoo, delay 1"
    ),
    "shampoo, small state": Method(of_rate(precond.shampoo, memory=precond.Memory()), larger="shampoo"),
    "shampoo, one moment, small state": Method(
        of_rate(precond.shampoo, **LATER, magnitude=ONE_MOMENT, memory=precond.Memory()), larger="shampoo, delay 1"
    ),
    "soap": Method(of_rate(precond.soap)),
    "soap, every step": Method(of_rate(precond.soap, refresh=1)),
    "soap, small state": Method(of_rate(precond.soap, memory=precond.Memory()), larger="soap"),
    "soap, Adam's norm": Method(of_rate(precond.soap, magnitude=ADAMS_NORM)),
    "soap, moments kept": Method(of_rate(precond.soap, transport=precond.roots.unchanged())),
    "kl_shampoo": Method(of_rate(precond.kl_shampoo)),
    "kl_shampoo, Adam's norm": Method(of_rate(precond.kl_shampoo, magnitude=ADAMS_NORM)),
    "kl_shampoo, own norm": Method(of_rate(precond.kl_shampoo, magnitude=None)),
    "kl_soap": Method(of_rate(precond.kl_soap)),
    "kl_soap, every 10 steps": Method(of_rate(precond.kl_soap, refresh=EVERY_TEN)),
    "kl_soap, delay 0": Method(of_rate(precond.kl_soap, refresh=BASES_FIRST)),
    "kl_soap, Adam's norm": Method(of_rate(precond.kl_soap, magnitude=ADAMS_NORM)),
    "kl_soap, moments kept": Method(of_rate(precond.kl_soap, transport=precond.roots.unchanged())),
    "muon": Method(of_rate(precond.muon)),
    "muon, width": Method(of_rate(precond.muon, scale=precond.orthogonal.width())),
    "kfac": Method(of_damping(precond.kfac), middle=lambda task: 3e-3, documented=1e-2, factors=True),
    "ekfac": Method(of_damping(precond.ekfac), middle=lambda task: 3e-3, documented=1e-2, factors=True, measured=True),
}
