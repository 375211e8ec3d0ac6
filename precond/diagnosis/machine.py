"""Tell what this machine is, and how JAX is set up on it."""

import importlib.metadata
import os
import platform as python_platform
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax

from precond.version import __version__

__all__ = ["Machine", "inspect_machine"]

_PACKAGES = ("jax", "jaxlib", "optax", "numpy", "flax")
_SETTINGS = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_debug_infs", "jax_disable_jit"),
    *("jax_enable_compilation_cache", "jax_compilation_cache_dir"),
)
_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS", "JAX_PLATFORMS")
_DEVICE_FILES = {"/dev/nvidia0": "an NVIDIA GPU", "/dev/kfd": "an AMD GPU", "/dev/accel0": "a TPU"}


class Machine(NamedTuple):
    """Hold what was found of a machine.

    Attributes:
      versions: the versions of packages, by their names; a package that is not installed is left out.
      platform: the platform on which JAX computes by default, as "cpu", "gpu" or "tpu"; empty if it finds no device.
      devices: how many there are of each kind.
      processes: the number of processes of this run.
      cores: the number of cores that this process may use.
      hardware: accelerators whose device files are there, whether JAX uses them or not.
      settings: JAX's options by name.
      environment: variables by name, None for those that are not set.
      failure: what JAX said where it found no device.
    """

    versions: dict[str, str]
    platform: str
    devices: dict[str, int]
    processes: int
    cores: int
    hardware: tuple[str, ...]
    settings: dict[str, Any]
    environment: dict[str, str | None]
    failure: str

    @property
    def threads(self) -> str | None:
        """How many threads OpenBLAS starts, as the environment says; None where it says nothing."""
        return self.environment["OPENBLAS_NUM_THREADS"] or self.environment["OMP_NUM_THREADS"]

    @property
    def crowded(self) -> bool:
        """Whether LAPACK calls on the CPU, of which JAX makes several at once, start threads of their own."""
        return self.platform == "cpu" and self.cores > 1 and self.threads != "1"


def inspect_machine() -> Machine:
    """Look at packages, devices, settings and the environment.

    Returns:
      What was found.

    Examples:
      >>> found = inspect_machine()
      >>> found.platform, found.devices == {"cpu": jax.device_count()}
      ('cpu', True)
    """
    try:
        platform, kinds, failure = jax.default_backend(), Counter(d.device_kind for d in jax.devices()), ""
    except (RuntimeError, AssertionError) as error:  # the second if JAX_PLATFORMS names a platform without its package
        platform, kinds, failure = "", Counter(), str(error) or type(error).__name__
    return Machine(
        versions=_versions(),
        platform=platform,
        devices=dict(kinds),
        processes=0 if failure else jax.process_count(),
        cores=_cores(),
        hardware=tuple(name for file, name in _DEVICE_FILES.items() if Path(file).exists()),
        settings={name: getattr(jax.config, name) for name in _SETTINGS},
        environment={name: os.environ.get(name) for name in _VARIABLES},
        failure=failure,
    )


def _versions() -> dict[str, str]:
    found = {"precond": __version__, "Python": python_platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cores() -> int:
    """Count the cores that the operating system lets this process use, if it says so."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
