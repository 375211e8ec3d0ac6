"""Run the command line: it reads words, calls the library, and prints. This is floor 5 of the library."""

from precond.command.main import main

__all__ = ["main"]
