"""Add the command `doctor`, which describes this machine and its problems."""

import argparse

from precond.command.readers import dtype
from precond.diagnosis import diagnose

__all__ = ["add_doctor"]


def add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command.

    Args:
      commands: the commands of the main parser.
    """
    parser = commands.add_parser(
        "doctor",
        help="say what this machine is, and what is wrong with it",
        description="Print versions, devices and settings, compute some roots and bases, and look for known traps. "
        "It takes some seconds. The exit status is 0 if nothing is wrong, and 1 otherwise.",
    )
    parser.add_argument("--dtype", type=dtype, default="float32", help="of your parameters (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return the text to print, and the exit status."""
    found = diagnose(arguments.dtype)
    return found.json() if arguments.json else found.text(), 1 if found.problems else 0
