"""What a run will cost, said before it begins."""

from precond.planning.plan import plan
from precond.planning.presets import gpt
from precond.planning.report import Plan, Stack, Work

__all__ = ["Plan", "Stack", "Work", "gpt", "plan"]
