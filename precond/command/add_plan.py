"""Add the command `plan`, which tells what a run will cost."""

import argparse
import json

from precond.command.model import add_model, read_model
from precond.command.optimizer import add_devices, add_optimizer, read_run
from precond.command.readers import rate
from precond.planning import Plan, plan

__all__ = ["add_plan"]

_EXAMPLES = """examples:
  precond plan --preset gpt --width 2048 --layers 20 --devices 256 --block-size 512
  precond plan --preset llama --width 4096 --layers 32 --mesh data=8,tensor=4 --axis data --gradients data
  precond plan --preset vit --width 768 --layers 12 --optimizer kfac
  precond plan --shapes model.json --optimizer soap --json"""


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command.

    Args:
      commands: the commands of the main parser.
    """
    parser = commands.add_parser(
        "plan",
        usage="%(prog)s (--preset NAME --width N --layers N | --shapes FILE) [options]",
        help="say what a run will cost",
        description="Say what an optimizer will keep, compute and send in a step, before anything is allocated.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    add_optimizer(parser)
    add_devices(parser)
    platform = "some algorithms depend on it (default: %(default)s)"
    parser.add_argument("--platform", choices=["cpu", "cuda", "rocm", "tpu"], default="cuda", help=platform)
    time = parser.add_argument_group("the overhead; what has no rate is left out")
    time.add_argument("--step-ms", type=rate, help="milliseconds of a step without the optimizer; needs --flops-per-s")
    time.add_argument("--flops-per-s", type=rate, help="of matrix products, on one device")
    time.add_argument("--decomposition-flops-per-s", type=rate, help="of eigh, QR and Cholesky, on one device")
    time.add_argument("--wire-bytes-per-s", type=rate, help="received by one device")
    time.add_argument("--memory-bytes-per-s", type=rate, help="read and written by one device")
    parser.add_argument("--views", action="store_true", help="print how each parameter is read, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return the text to print, and the exit status."""
    run = read_run(arguments, read_model(arguments))
    found = plan(run.tx, run.params, mesh=run.mesh, extra=run.extra, platform=arguments.platform)
    seconds = _seconds(arguments, found)
    overhead = 1000 * sum(seconds.values()) / arguments.step_ms if seconds else 0.0
    if arguments.json:
        more = {"seconds": seconds, "overhead": overhead} if seconds else {}
        return json.dumps(json.loads(found.json()) | more), 0
    table = found.table() + (f"\n\n{found.views}" if arguments.views else "")
    if not seconds:
        return table, 0
    rows = [f"{name:<38}{1000 * s:>12.3g}" for name, s in seconds.items()]
    last = f"{'all, as a share of the step':<38}{overhead:>12.1%}"
    return "\n".join([table, "", "Milliseconds that a step takes longer", *rows, last]), 0


def _seconds(arguments: argparse.Namespace, found: Plan) -> dict[str, float]:
    """Return seconds by part."""
    rates = ("flops_per_s", "decomposition_flops_per_s", "wire_bytes_per_s", "memory_bytes_per_s")
    given = {name: getattr(arguments, name) for name in rates if getattr(arguments, name) is not None}
    if arguments.step_ms is None:
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise ValueError(f"{option} needs --step-ms, the step that the optimizer's time is compared with.")
        return {}
    if "flops_per_s" not in given:
        raise ValueError("--step-ms needs --flops-per-s: how fast does a device multiply matrices?")
    return found.seconds(**given)
