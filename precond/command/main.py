"""Run the command line, `precond` or `python -m precond`."""

import argparse
import sys
from collections.abc import Sequence

import precond
from precond.command.add_doctor import add_doctor
from precond.command.add_plan import add_plan

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and print what it finds.

    Args:
      argv: the arguments; None takes those of the process.

    Returns:
      The exit status: 0, or 1 where `doctor` found something wrong.

    Raises:
      SystemExit: with status 2 for arguments that do not fit, after a message on the standard error.

    Examples:
      >>> main(
      ...     [
      ...         "plan",
      ...         "--preset",
      ...         "gpt",
      ...         "--width",
      ...         "64",
      ...         "--layers",
      ...         "2",
      ...         "--block-size",
      ...         "64",
      ...     ]
      ... )
      3.39 M parameters, 1 device
      ...
      0
    """
    parser = argparse.ArgumentParser(prog="precond", description=precond.__doc__)
    parser.add_argument("--version", action="version", version=f"precond {precond.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, title="commands")
    add_plan(commands)
    add_doctor(commands)
    arguments, more = parser.parse_known_args(argv)
    if more:
        commands.choices[arguments.command].error(f"there is no {more[0]}; see --help")
    try:
        text, status = arguments.run(arguments)
    except (OSError, TypeError, ValueError) as error:
        commands.choices[arguments.command].error(str(error))
    sys.stdout.write(text + "\n")
    return status
