"""States of optimizers that outlive a change of the model or of the optimizer. Floor 4 of the library."""

from precond.checkpoints.adopt import Adopted, adopt
from precond.checkpoints.by_path import by_path

__all__ = ["Adopted", "adopt", "by_path"]
