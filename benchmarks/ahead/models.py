"""The models whose training steps are compiled: the shapes of their parameters, a batch, and a loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

from . import resnet, transformers


class Model(NamedTuple):
    """A model without any numbers."""

    shapes: Callable[[], Any]
    """The parameters, as `jax.ShapeDtypeStruct`s."""
    batch: Callable[[int], tuple[Any, ...]]
    """From a number of devices to the arguments of `loss` after the parameters."""
    loss: Callable[..., Any]
    scanned: bool = False
    """Whether layers are stacked along the first axis of the leaves under `layers`."""


def _transformer(scanned=False, **sizes):
    config = transformers.Config(scanned=scanned, **sizes)
    return Model(config.shapes, config.batch, config.loss, scanned)


SMALL = {"width": 256, "layers": 4, "vocabulary": 8192, "context": 512}
FULL = {"width": 768, "layers": 12, "vocabulary": 50304, "context": 1024}
MODELS = {
    "gpt-small": _transformer(**SMALL),
    "gpt-small-scanned": _transformer(**SMALL, scanned=True),
    "gpt-124m": _transformer(**FULL),
    "gpt-124m-16k": _transformer(**FULL, sequences=16),
    "gpt-124m-scanned": _transformer(**FULL, scanned=True),
    "moe": _transformer(**SMALL, experts=8),
    "resnet-50": Model(resnet.shapes, resnet.batch, resnet.loss),
}
