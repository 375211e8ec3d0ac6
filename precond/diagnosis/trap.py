"""Hold a trap, and the evidence in which traps are looked for."""

from typing import NamedTuple

from precond.diagnosis.machine import Machine
from precond.diagnosis.trials import Trials

__all__ = ["Evidence", "Trap"]


class Evidence(NamedTuple):
    """Hold the evidence in which traps are looked for.

    Attributes:
      machine: the machine, as it was found.
      trials: the trials of the machine; None if JAX finds no device to compute on.
      dtype: the dtype of the parameters that the user means to train.
    """

    machine: Machine
    trials: Trials | None
    dtype: str


class Trap(NamedTuple):
    """Hold one thing that makes training fail, crawl or lose precision.

    Attributes:
      seen: what was found on this machine.
      why: the reason why it matters.
      advice: what to do.
    """

    seen: str
    why: str
    advice: str
