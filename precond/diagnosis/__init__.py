"""Find what a machine is, how it computes, and which known traps it has. This is floor 4 of the library."""

from precond.diagnosis.diagnose import diagnose
from precond.diagnosis.diagnosis import Diagnosis
from precond.diagnosis.machine import Machine
from precond.diagnosis.trap import Trap
from precond.diagnosis.trials import Trial, Trials

__all__ = ["Diagnosis", "Machine", "Trap", "Trial", "Trials", "diagnose"]
