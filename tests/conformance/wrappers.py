"""Optax's wrappers around an optimizer, as named functions from a case to what a user would write."""

import jax
import optax

import precond
from tests.conformance import harness


def _labels(tree):
    """Matrices to one optimizer, everything else to another; the third group stays empty."""
    return jax.tree.map(lambda leaf: "matrices" if len(leaf.shape) > 1 else "others", tree)


def _partition(case):
    return optax.partition({"matrices": case.make(), "others": optax.adam(1e-2), "nobody": case.make()}, _labels)


def _masked(case):
    return optax.masked(case.make(), lambda tree: jax.tree.map(lambda leaf: len(leaf.shape) > 0, tree))


def _multi_steps(case):
    steps = optax.MultiSteps(case.make(), every_k_schedule=2)
    return optax.GradientTransformationExtraArgs(steps.init, steps.update)


def _injected(case):
    return optax.inject_hyperparams(case.factory, precond.static_args(case.factory))(
        **case.kwargs, **harness.known(case, {"refresh": 2, "block_size": 2})
    )


WRAPPERS = {
    "bare": lambda case: case.make(),
    "chain": lambda case: optax.chain(optax.clip_by_global_norm(1.0), case.make()),
    "chain_with_ema": lambda case: optax.chain(case.make(), optax.ema(0.9)),
    "named_chain": lambda case: optax.named_chain(("clip", optax.clip(1.0)), ("ours", case.make())),
    "masked": _masked,
    "partition": _partition,
    "partition_all_one_group": lambda case: optax.partition({"all": case.make(), "none": case.make()}, lambda _: "all"),
    "multi_steps": _multi_steps,
    "inject_hyperparams": lambda case: optax.inject_hyperparams(case.factory)(**case.kwargs),
    "inject_hyperparams_static": _injected,
    "apply_if_finite": lambda case: optax.apply_if_finite(case.make(), max_consecutive_errors=3),
    "conditionally_transform": lambda case: optax.conditionally_transform(case.make(), lambda step: step >= 0),
    "conditionally_mask": lambda case: optax.conditionally_mask(case.make(), lambda step: step >= 0),
    "schedule_free": lambda case: optax.contrib.schedule_free(case.make(b1=0.0), 1e-2),
}
