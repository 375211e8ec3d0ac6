"""Keep states of optimizers when the model or the optimizer changes. This is floor 4 of the library."""

from precond.checkpoints.adopt import Adopted, adopt
from precond.checkpoints.by_path import by_path

__all__ = ["Adopted", "adopt", "by_path"]
