"""Run the command line by `python -m precond`."""

import sys

from precond.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
