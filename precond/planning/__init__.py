"""What a run will cost, said before it begins."""

from precond.planning.plan import plan
from precond.planning.presets import gpt
from precond.planning.report import Plan, Stack, Work
from precond.planning.views_of import Readings, views_of

__all__ = ["Plan", "Readings", "Stack", "Work", "gpt", "plan", "views_of"]
