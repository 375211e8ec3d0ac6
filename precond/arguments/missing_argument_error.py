"""Say by an error class that an update was not given an argument that it needs."""

__all__ = ["MissingArgumentError"]


class MissingArgumentError(TypeError, ValueError):
    """Say that an update lacks an argument beside gradients, state and parameters.

    A trial step, which has no such arguments, tells by this class that the part itself is not at fault. It is Python's
    error for a missing argument, and that for a value of None.

    Examples:
      >>> issubclass(MissingArgumentError, TypeError)
      True
    """
