"""Say by an error class that an update was not given an argument that it needs."""

__all__ = ["MissingArgumentError"]


class MissingArgumentError(TypeError, ValueError):
    """Say that an update lacks an argument beside gradients, state and parameters.

    A trial step has no such arguments, and tells by this class that the part itself is not at fault. The class is a
    `TypeError`, as Python raises for a missing argument. It is a `ValueError`, too, as other wrong arguments raise.

    Examples:
      >>> issubclass(MissingArgumentError, TypeError)
      True
    """
