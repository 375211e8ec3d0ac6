"""Find the problems of a machine: each check finds one known trap."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from precond.diagnosis.trap import Evidence, Trap

__all__ = ["OLDEST", "find_problems"]

OLDEST = {"Python": "3.11", "jax": "0.10", "numpy": "2.0", "optax": "0.2.8", "flax": "0.12"}
"""The oldest versions that are supported; pyproject.toml says the same to pip."""

_COARSE = ("default", "fastest", "bfloat16", "tensorfloat32", "BF16_BF16_F32", "TF32_TF32_F32", "F16_F16_F32")
_ROOT_IS_WRONG, _BASIS_IS_WRONG = 0.1, 0.01  # far above rounding


def find_problems(evidence: Evidence) -> tuple[Trap, ...]:
    """Find what is wrong.

    Args:
      evidence: what is known of the machine.

    Returns:
      A trap for each problem.
    """
    checks = (_device, _accelerator, _versions, _debugging, _precision, _float64, _threads, _cache, _roots, _basis)
    return tuple(trap for check in checks for trap in check(evidence))


def _device(evidence: Evidence) -> Iterator[Trap]:
    machine = evidence.machine
    if machine.failure:
        platforms = machine.environment["JAX_PLATFORMS"]
        asked = f" JAX_PLATFORMS is {platforms}." if platforms else ""
        yield Trap(
            f"JAX finds no device.{asked} It says: {machine.failure}",
            "Nothing can be computed.",
            "Install JAX for your accelerator, or unset JAX_PLATFORMS to compute on the CPU.",
        )


def _accelerator(evidence: Evidence) -> Iterator[Trap]:
    machine = evidence.machine
    # Whoever names the platform wants it.
    if machine.platform == "cpu" and machine.hardware and not machine.environment["JAX_PLATFORMS"]:
        yield Trap(
            f"This machine has {' and '.join(machine.hardware)}, but JAX computes on the CPU.",
            "Training is many times slower than it could be.",
            "Install JAX for the accelerator, as https://docs.jax.dev/en/latest/installation.html says.",
        )


def _versions(evidence: Evidence) -> Iterator[Trap]:
    for name, oldest in OLDEST.items():
        version = evidence.machine.versions.get(name)
        if version is not None and _numbers(version) < _numbers(oldest):
            yield Trap(
                f"{name} is {version}; the oldest supported version is {oldest}.",
                "Older versions lack functions that precond calls, and are not tested.",
                f"Install {name} {oldest} or newer.",
            )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, so that 0.10 is later than 0.9.

    Examples:
      >>> _numbers("0.10.2.dev3") > _numbers("0.9")
      True
    """
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def _debugging(evidence: Evidence) -> Iterator[Trap]:
    settings = evidence.machine.settings
    for name in ("jax_debug_nans", "jax_debug_infs"):
        if settings[name]:
            yield Trap(
                f"{name.upper()} is on.",
                "precond leaves out blocks whose gradient is not finite, and goes on. With this option JAX raises an "
                "error at the first number that is not finite, before precond can leave it out.",
                f"Unset {name.upper()} while you train; set it only to find where such a number comes from.",
            )
    if settings["jax_disable_jit"]:
        yield Trap(
            "JAX_DISABLE_JIT is on.",
            "Every operation is run by itself, and a step takes many times as long.",
            "Unset JAX_DISABLE_JIT.",
        )


def _precision(evidence: Evidence) -> Iterator[Trap]:
    precision = evidence.machine.settings["jax_default_matmul_precision"]
    if precision in _COARSE:
        yield Trap(
            f"The default matmul precision is set to {precision}.",
            "precond multiplies its own matrices in full precision. Your model, your losses and parts that you write "
            "yourself multiply in this one, which keeps two or three digits: too few for statistics and roots.",
            'Unset JAX_DEFAULT_MATMUL_PRECISION, or pass precision="highest" to products in parts of your own.',
        )


def _float64(evidence: Evidence) -> Iterator[Trap]:
    if evidence.dtype == "float64" and not evidence.machine.settings["jax_enable_x64"]:
        yield Trap(
            "Parameters are to be float64, but JAX's 64-bit types are off.",
            "JAX makes float32 arrays of them without an error.",
            'Set JAX_ENABLE_X64=1, or call jax.config.update("jax_enable_x64", True) before anything else.',
        )


def _threads(evidence: Evidence) -> Iterator[Trap]:
    machine = evidence.machine
    if machine.crowded:
        said = "is not set" if machine.threads is None else f"is {machine.threads}"
        yield Trap(
            f"OPENBLAS_NUM_THREADS {said}, and there are {machine.cores} cores.",
            "JAX decomposes several matrices at once, and each call starts threads of its own. They wait for each "
            "other: eigendecompositions have taken 100 times as long.",
            "Set OPENBLAS_NUM_THREADS=1 in the environment, before Python starts.",
        )


def _cache(evidence: Evidence) -> Iterator[Trap]:
    where = evidence.machine.settings["jax_compilation_cache_dir"]
    if not where or "://" in where:  # a bucket's rights are not known here
        return
    path = Path(where)
    while not path.exists():  # JAX makes the folders that are not there
        path = path.parent
    if not (path.is_dir() and os.access(path, os.W_OK)):
        yield Trap(
            f"The compilation cache {where} cannot be written.",
            "Every run compiles again what the last one compiled.",
            "Set JAX_COMPILATION_CACHE_DIR to a folder that you may write.",
        )


def _roots(evidence: Evidence) -> Iterator[Trap]:
    for trial in evidence.trials.roots if evidence.trials else ():
        if not trial.residual < _ROOT_IS_WRONG:
            yield Trap(
                f"The roots that {trial.method} computes here have a residual of {trial.residual:.1g}.",
                "A root that is this far off is refused in training, and its block is preconditioned by an old one.",
                "Choose another method (method=precond.newton()), and report this with the output of --json.",
            )


def _basis(evidence: Evidence) -> Iterator[Trap]:
    basis = evidence.trials and evidence.trials.basis
    if basis and not basis.residual < _BASIS_IS_WRONG:
        yield Trap(
            f"The bases that qr computes here are not orthonormal; they have a residual of {basis.residual:.1g}.",
            "SOAP refuses such a basis in training, and keeps an old one.",
            "Choose another method (method=precond.eigh()), and report this with the output of --json.",
        )
