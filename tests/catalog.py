"""Every public optimizer, as named cases that the conformance tests run over: a new optimizer is one row here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import precond
from precond import recipes
from tests import of_gradients

__all__ = [
    "ALIASES",
    "AROUND",
    "DEFAULTS",
    "EVERY",
    "LAYERED",
    "RECIPES",
    "REFRESHED",
    "VARIANTS",
    "WHOLE",
    "Case",
    "find",
]


class Case(NamedTuple):
    """One optimizer with one choice of arguments.

    Attributes:
      name: unique, the test's id.
      factory: makes the optimizer.
      kwargs: for the factory; the learning rate brings the problems of `conformance/test_convergence.py` home.
      needs_params: whether `update` must be given the parameters.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    kwargs: dict[str, Any]
    needs_params: bool = False

    def make(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer, with some arguments changed."""
        return optax.with_extra_args_support(self.factory(**(self.kwargs | changes)))


DEFAULTS = (
    Case("shampoo", precond.shampoo, {"learning_rate": 1e-2}),
    Case("soap", precond.soap, {"learning_rate": 1e-2}),
    Case("kl_shampoo", precond.kl_shampoo, {"learning_rate": 1e-2}),
    Case("kl_soap", precond.kl_soap, {"learning_rate": 1e-2}),
    Case("muon", precond.muon, {"learning_rate": 1e-2}),
)
"""The aliases as they come: the costly properties are tested on these."""

_LR = {"learning_rate": 1e-2}
_TURNS = precond.every(3, stagger=True)
_AT_ONCE = precond.every(3)
_ADAM = precond.transforms.scale_by_diagonal(0.95, eps=1e-15, bias_correction=True)
_ORTHOGONAL = precond.orthogonal
_LATE = {"delay": 1, "warmup": 1}  # as soap needs it: no gradient meets a basis made from itself

VARIANTS = (
    Case("shampoo_refreshed_each_step", precond.shampoo, _LR | {"refresh": 1}),
    Case("shampoo_refreshed_in_turns", precond.shampoo, _LR | {"refresh": _TURNS}),
    Case("shampoo_refreshed_at_once", precond.shampoo, _LR | {"refresh": _AT_ONCE}),
    Case("shampoo_newton", precond.shampoo, _LR | {"method": precond.newton()}),
    Case("shampoo_composite", precond.shampoo, _LR | {"method": precond.composite()}),
    Case("shampoo_small_blocks", precond.shampoo, _LR | {"block_size": 2}),
    Case("shampoo_tensors", precond.shampoo, _LR | {"views": precond.views.tensors()}),
    Case("shampoo_one_sided", precond.shampoo, _LR | {"views": precond.views.small_side, "power": 0.5}),
    Case("shampoo_sum", precond.shampoo, {"learning_rate": 0.3, "b2": 1.0}),
    Case("shampoo_sgd_magnitude", precond.shampoo, {"learning_rate": 5e-2, "magnitude": optax.identity()}),
    Case("shampoo_decayed", precond.shampoo, _LR | {"weight_decay": 1e-4}, needs_params=True),
    Case("soap_refreshed_each_step", precond.soap, _LR | {"refresh": 1}),
    Case("soap_refreshed_in_turns", precond.soap, _LR | {"refresh": _TURNS._replace(**_LATE)}),
    Case("soap_eigh", precond.soap, _LR | {"method": precond.eigh(), "refresh": _AT_ONCE._replace(**_LATE)}),
    Case("soap_rotations", precond.soap, _LR | {"method": precond.roots.rotations()}),
    Case("soap_turned", precond.soap, _LR | {"transport": precond.roots.rotated()}),
    Case("soap_adam_magnitude", precond.soap, _LR | {"magnitude": _ADAM}),
    Case("soap_small_blocks", precond.soap, _LR | {"block_size": 2}),
    Case("soap_tensors", precond.soap, _LR | {"views": precond.views.tensors()}),
    Case("soap_decayed", precond.soap, _LR | {"weight_decay": 1e-4}, needs_params=True),
    Case("kl_shampoo_refreshed_each_step", precond.kl_shampoo, _LR | {"refresh": 1}),
    Case("kl_shampoo_newton", precond.kl_shampoo, _LR | {"method": precond.newton(), "refresh": _AT_ONCE}),
    Case("kl_shampoo_small_blocks", precond.kl_shampoo, _LR | {"block_size": 2}),
    Case("kl_shampoo_decayed", precond.kl_shampoo, _LR | {"weight_decay": 1e-4}, needs_params=True),
    Case("kl_shampoo_own_magnitude", precond.kl_shampoo, _LR | {"magnitude": None}),
    Case("kl_shampoo_adam_magnitude", precond.kl_shampoo, _LR | {"magnitude": _ADAM}),
    Case("kl_soap_refreshed_in_turns", precond.kl_soap, _LR | {"refresh": _TURNS._replace(**_LATE)}),
    Case("kl_soap_eigh", precond.kl_soap, _LR | {"method": precond.eigh(), "refresh": _AT_ONCE._replace(**_LATE)}),
    Case("kl_soap_adam_magnitude", precond.kl_soap, _LR | {"magnitude": _ADAM}),
    Case("kl_soap_small_blocks", precond.kl_soap, _LR | {"block_size": 2}),
    Case("kl_soap_decayed", precond.kl_soap, _LR | {"weight_decay": 1e-4}, needs_params=True),
    Case("muon_polar", precond.muon, _LR | {"method": _ORTHOGONAL.polar()}),
    Case("muon_width", precond.muon, {"learning_rate": 2e-3, "scale": _ORTHOGONAL.width(), "adam_learning_rate": 1e-2}),
    Case("muon_normalized", precond.muon, _LR | {"after": precond.transforms.normalize_neurons()}),
    Case("muon_small_blocks", precond.muon, _LR | {"block_size": 2}),
    Case("muon_decayed", precond.muon, _LR | {"weight_decay": 1e-4}, needs_params=True),
)
"""The aliases with every part exchanged once."""

RECIPES = (
    Case("google_shampoo", recipes.google_shampoo, {"learning_rate": 5e-2}, needs_params=True),
    Case("meta_shampoo", recipes.meta_shampoo, {"learning_rate": 1e-1}, needs_params=True),
    Case("meta_soap", recipes.meta_soap, {"learning_rate": 1e-1}, needs_params=True),
    Case("official_soap", recipes.official_soap, {"learning_rate": 1e-2, "weight_decay": 0.0}, needs_params=True),
    Case("nvidia_kl_soap", recipes.nvidia_kl_soap, _LR | {"weight_decay": 0.0}, needs_params=True),
)
"""The reference implementations; they always decay weights, if by nothing."""


def _adascale(learning_rate: float) -> optax.GradientTransformation:
    """With statistics that it makes itself, so that no test need give it any."""
    return precond.large_batches.differenced(precond.adascale(precond.shampoo, learning_rate, scale=2))


def _accumulated(learning_rate: float) -> optax.GradientTransformation:
    """Every second update is one."""
    return precond.accumulate(precond.adascale(precond.shampoo, learning_rate, scale=2), 2)


AROUND = (
    Case("adascale_shampoo", _adascale, {"learning_rate": 1e-2}),
    Case("accumulated_adascale_shampoo", _accumulated, {"learning_rate": 1e-2}),
)
"""What goes around an optimizer."""

WHOLE = (
    # The push keeps the parameters away from any minimum, unless the learning rate falls.
    Case("neumann", precond.neumann, {"learning_rate": 1e-3, "repulsion": None}, needs_params=True),
    Case("mfac", precond.mfac, {"learning_rate": 0.1, "damping": 3.0}),
)
"""The aliases that are not made of stacks: they see the gradient as a whole."""

LAYERED = (
    Case("kfac", of_gradients.kfac, _LR),
    Case("ekfac", of_gradients.ekfac, _LR),
)
"""The aliases that see into layers, with factors made of gradients, as no test gives them any."""

ALIASES = DEFAULTS + VARIANTS
REFRESHED = tuple(case for case in ALIASES if case.factory is not precond.muon)
"""The aliases with roots or bases, which are refreshed."""
EVERY = ALIASES + RECIPES + AROUND + WHOLE


def find(name: str) -> Case:
    """The case of this name."""
    return next(case for case in EVERY + LAYERED if case.name == name)
