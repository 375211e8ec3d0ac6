"""Make the optimizer that the command line names, and the devices that it is sharded over."""

import argparse
import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

import precond
from precond.command.readers import axes, dtype, mesh, whole
from precond.optimizers.shampoo import default_schedule
from precond.planning import dense_layers, divided

__all__ = ["Run", "add_devices", "add_optimizer", "read_run"]

_BLOCKED = {
    "shampoo": precond.shampoo,
    "soap": precond.soap,
    "kl_shampoo": precond.kl_shampoo,
    "kl_soap": precond.kl_soap,
    "muon": precond.muon,
}
_ROOTS = {"eigh": precond.eigh, "composite": precond.composite, "newton": precond.newton}
_BASES = {
    "qr": precond.qr,
    "eigh": precond.eigh,
    "rotations": precond.roots.rotations,
    "cholesky_qr": precond.roots.cholesky_qr,
}
_INVERSES = _ROOTS | {"cholesky": precond.roots.cholesky}
_ORTHOGONAL = {"newton_schulz": precond.orthogonal.newton_schulz, "polar": precond.orthogonal.polar}
_METHODS = dict.fromkeys(_BLOCKED, _ROOTS) | {"soap": _BASES, "kl_soap": _BASES, "muon": _ORTHOGONAL, "kfac": _INVERSES}
_BLOCK_SIZE = 1024


class Run(NamedTuple):
    """Hold the run that is planned.

    Attributes:
      tx: the optimizer.
      params: shapes of the parameters, divided as gradients come.
      extra: further arguments of its update, as shapes.
      mesh: sizes of mesh axes by name.
    """

    tx: optax.GradientTransformation
    params: Any
    extra: dict[str, Any]
    mesh: Mapping[str, int]


def add_optimizer(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe an optimizer.

    Args:
      parser: the parser of a command.
    """
    group = parser.add_argument_group("the optimizer")
    group.add_argument("--optimizer", choices=_METHODS, default="shampoo", help="default: %(default)s")
    methods = sorted(set().union(*_METHODS.values()))
    group.add_argument("--method", choices=methods, help="the algorithm for roots or bases (default: the optimizer's)")
    text = f"longest side of a block (default: {_BLOCK_SIZE}; muon takes matrices whole); kfac takes layers whole"
    group.add_argument("--block-size", type=whole, metavar="N", help=text)
    text = "steps between two refreshes (default: the optimizer's)"
    group.add_argument("--refresh", type=whole, metavar="N", help=text)
    group.add_argument("--at-once", action="store_true", help="with --refresh: refresh all in one step, not in turns")


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a mesh of devices.

    Args:
      parser: the parser of a command.
    """
    group = parser.add_argument_group("the devices")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--devices", type=whole, metavar="N", help="short for --mesh data=N (default: 1)")
    choice.add_argument("--mesh", type=mesh, help="names and sizes of mesh axes: data=8,tensor=4")
    group.add_argument("--axis", type=axes, help="the axes over which stacks are divided: data (default: all)")
    text = "the axes over which parameters and gradients are divided, as by FSDP: data (default: none)"
    group.add_argument("--gradients", type=axes, default=(), help=text)
    group.add_argument(
        "--gather-dtype", type=dtype, help="the type in which directions are gathered (default: that of gradients)"
    )


def read_run(arguments: argparse.Namespace, params: Any) -> Run:
    """Make what is to be planned.

    Args:
      arguments: the arguments from a parser that `add_optimizer` and `add_devices` were given.
      params: shapes of the parameters.

    Returns:
      The optimizer, with parameters and devices.

    Raises:
      ValueError: for options that do not fit each other.
    """
    sizes = arguments.mesh or {"data": arguments.devices or 1}
    over = arguments.axis or tuple(sizes)
    for option, names in (("--axis", over), ("--gradients", arguments.gradients)):
        if unknown := [name for name in names if name not in sizes]:
            raise ValueError(f"{option} {unknown[0]}: the mesh has no such axis, but {', '.join(sizes)}.")
    count = math.prod(sizes[name] for name in over)
    # The fewest blocks of padding with which these devices get equal shares.
    how = precond.sharded(over, multiple=count, gather_dtype=arguments.gather_dtype, gradients=arguments.gradients)
    given: dict[str, Any] = {"axis": how, **_schedule(arguments)}
    if arguments.optimizer == "kfac":
        tx, extra = _kfac(arguments, params, given)
    else:
        tx, extra = _blocked(arguments, given), {}
    return Run(tx, divided(params, sizes, arguments.gradients), extra, sizes)


def _schedule(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.refresh is None:
        if arguments.at_once:
            raise ValueError("--at-once needs --refresh: at once, every how many steps?")
        return {}
    if arguments.optimizer == "muon":
        raise ValueError("--refresh: Muon has no roots to refresh. Leave it out, or take another --optimizer.")
    usual = inspect.signature(getattr(precond, arguments.optimizer)).parameters["refresh"].default
    usual = default_schedule("data") if usual is None else usual  # Shampoo's, with an axis of any name
    stagger = not arguments.at_once
    return {"refresh": precond.every(arguments.refresh, stagger=stagger, delay=usual.delay, warmup=usual.warmup)}


def _method(arguments: argparse.Namespace) -> Any:
    methods = _METHODS[arguments.optimizer]
    if arguments.method is not None and arguments.method not in methods:
        raise ValueError(f"--method {arguments.method}: {arguments.optimizer} takes one of {', '.join(methods)}.")
    return None if arguments.method is None else methods[arguments.method]()


def _blocked(arguments: argparse.Namespace, given: dict[str, Any]) -> optax.GradientTransformation:
    size = arguments.block_size or (None if arguments.optimizer == "muon" else _BLOCK_SIZE)
    return _BLOCKED[arguments.optimizer](1e-3, block_size=size, method=_method(arguments), **given)


def _kfac(
    arguments: argparse.Namespace, params: Any, given: dict[str, Any]
) -> tuple[optax.GradientTransformation, dict[str, Any]]:
    if arguments.block_size is not None:
        raise ValueError("--block-size: K-FAC takes every layer whole. Leave it out, or take another --optimizer.")
    found = dense_layers(params)
    root = precond.inverse(method=_method(arguments))
    return precond.kfac(1e-3, found.layers, root=root, **given), {"factors": found.factors}
