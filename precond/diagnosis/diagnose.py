"""Look at a machine before anything is trained on it."""

import jax.numpy as jnp

from precond.diagnosis.diagnosis import Diagnosis
from precond.diagnosis.find_notes import find_notes
from precond.diagnosis.find_problems import find_problems
from precond.diagnosis.machine import inspect_machine
from precond.diagnosis.trap import Evidence
from precond.diagnosis.trials import run_trials

__all__ = ["diagnose"]


def diagnose(dtype: str = "float32") -> Diagnosis:
    """Say what this machine is, how it computes roots and bases, and which known traps it has.

    Args:
      dtype: the dtype of the parameters that are to be trained.

    Returns:
      A `Diagnosis`; see its attributes, `Diagnosis.text` and `Diagnosis.json`.

    Raises:
      ValueError: for a dtype of integers, or for one that JAX does not have.

    Examples:
      >>> found = diagnose()
      >>> found.trials.chosen, found.trials.basis.residual < 1e-3
      ('eigh', True)
    """
    if not _is_floating(dtype):
        raise ValueError(f"dtype={dtype!r}: must be a floating-point type: float32, bfloat16, float16 or float64.")
    machine = inspect_machine()
    trials = None if machine.failure else run_trials()
    evidence = Evidence(machine, trials, dtype)
    return Diagnosis(machine, trials, find_problems(evidence), find_notes(evidence))


def _is_floating(dtype: str) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        return False
