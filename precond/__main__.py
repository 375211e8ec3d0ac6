"""The command line: `python -m precond plan`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import precond

__all__ = ["main"]

_OPTIMIZERS = {"shampoo": precond.shampoo, "soap": precond.soap, "kl_shampoo": precond.kl_shampoo}
_ROOTS = {"eigh": precond.eigh, "composite": precond.composite, "newton": precond.newton}
_BASES = {"qr": precond.qr, "eigh": precond.eigh, "rotations": precond.rotations, "cholesky_qr": precond.cholesky_qr}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m precond", description=precond.__doc__)
    plan = parser.add_subparsers(dest="command", required=True).add_parser(
        "plan", help="what a run will cost", description="What a run will cost, before anything is allocated."
    )
    model = plan.add_argument_group("the model")
    model.add_argument("--preset", choices=["gpt"], help="with --width and --layers")
    model.add_argument("--shapes", type=Path, help='or a JSON file, {"layer": {"kernel": [1024, 4096]}}')
    model.add_argument("--width", type=int)
    model.add_argument("--layers", type=int)
    model.add_argument("--vocabulary", type=int, default=50304)
    model.add_argument("--dtype", default="float32", help="of the parameters (default: %(default)s)")
    tx = plan.add_argument_group("the optimizer")
    tx.add_argument("--optimizer", choices=_OPTIMIZERS, default="shampoo", help="default: %(default)s")
    tx.add_argument("--method", choices=sorted(_ROOTS | _BASES), help="how roots or bases are computed")
    tx.add_argument("--block-size", type=int, default=1024, help="default: %(default)s")
    tx.add_argument("--refresh", type=int, help="steps between two refreshes (default: the optimizer's)")
    tx.add_argument("--at-once", action="store_true", help="with --refresh: of all roots in one step, not in turns")
    tx.add_argument("--devices", type=int, default=1, help="over which blocks are divided (default: %(default)s)")
    tx.add_argument("--wire", help="the dtype in which directions are gathered")
    tx.add_argument("--platform", default="cuda", help="cpu, cuda, rocm or tpu (default: %(default)s)")
    time = plan.add_argument_group("the overhead, of which what has no rate is left out")
    time.add_argument("--step-ms", type=float, help="of a step without the optimizer; needs --flops-per-s")
    time.add_argument("--flops-per-s", type=float, help="of matrix products, on one device")
    time.add_argument("--decomposition-flops-per-s", type=float)
    time.add_argument("--wire-bytes-per-s", type=float, help="received by one device")
    time.add_argument("--memory-bytes-per-s", type=float)
    plan.add_argument("--views", action="store_true", help="print how each parameter is read, too")
    plan.add_argument("--json", action="store_true", help="print JSON, not tables")
    return parser


def _model(arguments: argparse.Namespace) -> Any:
    if (arguments.preset is None) == (arguments.shapes is None):
        raise ValueError("Name one model: --preset gpt --width 2048 --layers 20, or --shapes model.json.")
    if arguments.shapes is not None:
        tree = json.loads(arguments.shapes.read_text())
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(tuple(s), arguments.dtype), tree, is_leaf=lambda x: isinstance(x, list)
        )
    if arguments.width is None or arguments.layers is None:
        raise ValueError("--preset gpt needs --width and --layers.")
    gpt = precond.planning.gpt
    return gpt(arguments.width, arguments.layers, vocabulary=arguments.vocabulary, dtype=arguments.dtype)


def _optimizer(arguments: argparse.Namespace) -> Any:
    methods = _BASES if arguments.optimizer == "soap" else _ROOTS
    if arguments.method is not None and arguments.method not in methods:
        raise ValueError(f"--method {arguments.method}: {arguments.optimizer} takes one of {', '.join(methods)}.")
    late = {"delay": 1, "warmup": 1} if arguments.optimizer == "soap" else {}
    schedule = {}
    if arguments.refresh is not None:
        schedule["refresh"] = precond.every(arguments.refresh, stagger=not arguments.at_once, **late)
    elif arguments.at_once:
        raise ValueError("--at-once needs --refresh: at once, every how many steps?")
    return _OPTIMIZERS[arguments.optimizer](
        1e-3,
        **schedule,
        block_size=arguments.block_size,
        method=None if arguments.method is None else methods[arguments.method](),
        axis=precond.sharded("data", multiple=arguments.devices, wire=arguments.wire),
    )


def _seconds(arguments: argparse.Namespace, found: precond.Plan) -> dict[str, float]:
    """Seconds by part."""
    if arguments.step_ms is None:
        return {}
    if arguments.flops_per_s is None or not arguments.step_ms > 0:
        raise ValueError("--step-ms needs to be positive, and --flops-per-s with it.")
    return found.seconds(
        flops_per_s=arguments.flops_per_s,
        decomposition_flops_per_s=arguments.decomposition_flops_per_s,
        wire_bytes_per_s=arguments.wire_bytes_per_s,
        memory_bytes_per_s=arguments.memory_bytes_per_s,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
      argv: the arguments; None takes those of the process.

    Examples:
      >>> main(["plan", "--preset", "gpt", "--width", "64", "--layers", "2", "--block-size", "64"])
      169 k parameters, 1 device
      ...
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        found = precond.plan(
            _optimizer(arguments), _model(arguments), mesh={"data": arguments.devices}, platform=arguments.platform
        )
        seconds = _seconds(arguments, found)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    overhead = 1000 * sum(seconds.values()) / arguments.step_ms if seconds else 0.0
    if arguments.json:
        text = json.dumps(json.loads(found.json()) | ({"seconds": seconds, "overhead": overhead} if seconds else {}))
    else:
        text = found.table() + (f"\n\n{found.views}" if arguments.views else "")
        if seconds:
            rows = [f"{name:<26}{1000 * s:>12.3g}" for name, s in seconds.items()]
            text = "\n".join([text, "", "milliseconds of a step", *rows, f"{'overhead':<26}{overhead:>12.1%}"])
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
