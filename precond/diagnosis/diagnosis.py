"""Hold the findings on a machine, for a program to read or for a person to print."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from precond.diagnosis.machine import Machine
from precond.diagnosis.trap import Trap
from precond.diagnosis.trials import Trials

__all__ = ["Diagnosis"]


class Diagnosis(NamedTuple):
    """Hold what `diagnose` found.

    Attributes:
      machine: packages, devices, settings and environment.
      trials: roots and bases that were computed; None where JAX finds no device.
      problems: traps that harm training; each is to be mended.
      notes: traps that harm only those who do not know them.
    """

    machine: Machine
    trials: Trials | None
    problems: tuple[Trap, ...]
    notes: tuple[Trap, ...]

    def json(self) -> str:
        """Write all of it as JSON."""
        trials = self.trials and {
            "chosen": self.trials.chosen,
            "roots": [trial._asdict() for trial in self.trials.roots],
            "basis": self.trials.basis._asdict(),
        }
        traps = {"problems": self.problems, "notes": self.notes}
        found = {name: [trap._asdict() for trap in which] for name, which in traps.items()}
        return json.dumps({"machine": self.machine._asdict(), "trials": trials, **found})

    def text(self) -> str:
        """Say it in words."""
        sections = [_section("Versions", self.machine.versions), _section("Devices", _devices(self.machine))]
        sections.append(_section("Settings", _settings(self.machine)))
        if self.trials is not None:
            sections.append(_computed(self.trials))
        sections += _traps("Problem", self.problems) + _traps("Note", self.notes)
        if not self.problems:
            sections.append(["Nothing is wrong."])
        return "\n\n".join("\n".join(lines) for lines in sections)


def _section(title: str, rows: Mapping[str, Any]) -> list[str]:
    return [title, *(f"  {name:<32}{value}" for name, value in rows.items())]


def _devices(machine: Machine) -> dict[str, Any]:
    devices = ", ".join(f"{count} x {kind}" for kind, count in machine.devices.items())
    return {
        "platform": machine.platform or "none",
        "devices": devices or "none",
        "processes": machine.processes,
        "CPU cores": machine.cores,
    }


def _settings(machine: Machine) -> dict[str, str]:
    settings = machine.settings
    where = settings["jax_compilation_cache_dir"]
    advice = "none; set JAX_COMPILATION_CACHE_DIR to start sooner"
    if where and not settings["jax_enable_compilation_cache"]:
        where = f"{where}, but it is off (JAX_ENABLE_COMPILATION_CACHE)"
    return {
        "default matmul precision": settings["jax_default_matmul_precision"] or "not set (JAX's own)",
        "64-bit types (x64)": "on" if settings["jax_enable_x64"] else "off",
        "compilation cache": where or advice,
        **{name: value or "not set" for name, value in machine.environment.items()},
    }


def _computed(trials: Trials) -> list[str]:
    rows = []
    for trial in trials.roots:
        chosen = ", the default" if trial.method == trials.chosen else ""
        rows.append((f"root by {trial.method}(){chosen}", trial))
    rows.append(("basis by qr()", trials.basis))
    head = f"{'Roots and bases of 256 x 256':<38}{'ms a matrix':>12}{'residual':>12}"
    return [head, *(f"  {name:<36}{trial.milliseconds:>12.3g}{trial.residual:>12.1e}" for name, trial in rows)]


def _traps(title: str, traps: tuple[Trap, ...]) -> list[list[str]]:
    return [
        [
            *_wrapped(f"{title}: {trap.seen}", ""),
            *_wrapped(f"Why it matters: {trap.why}", "  "),
            *_wrapped(f"What to do: {trap.advice}", "  "),
        ]
        for trap in traps
    ]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 88, initial_indent=indent, subsequent_indent="    ", break_long_words=False)
