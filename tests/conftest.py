"""Eight CPU devices, one thread of BLAS each, quick compilation, and float64 for the tests that ask for it."""

import gc
import os
from importlib.metadata import version

# Before numpy and jax are imported: eight devices that each start a pool of threads stand in each other's way.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Not in 32 parts at once: each test process has a core for itself, and the parts take a quarter longer than the whole.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1"
# The older code generator for fusions compiles a step in half the time. Later versions of XLA do not have it any more,
# so the tests with Python 3.12 and 3.13, which have these, see the code that users get.
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 8)
# `make gpu` runs some tests on the device itself, as users compile them. It says so, since asking JAX for its devices
# would start them too early.
ON_CPU = os.environ.get("JAX_PLATFORMS", "cpu") == "cpu"
# Compile in a third of the time, to slower programs. It is set here and not by a fixture, so that it is for the
# examples of the library's own docstrings, too.
jax.config.update("jax_disable_most_optimizations", ON_CPU)

# Traced programs are many objects that live long. Python would look through all of them again and again.
gc.set_threshold(100_000, 20, 50)

# The same examples every time, so that a failure can be found again; more of them with the slow tests.
settings.register_profile("precond", deadline=None, derandomize=True, max_examples=10)
settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("precond")


@pytest.fixture
def x64():
    """Run a test with 64-bit types."""
    with jax.enable_x64(True):
        yield


def for_cpus_only(*args, default=None, **per_platform):
    """What `jax.lax.platform_dependent` does where CPUs are the only platform."""
    return per_platform.get("cpu", default)(*args)


@pytest.fixture(autouse=True)
def quick_compilation(request, monkeypatch):
    """Trace for CPUs only, and compile in a hurry; but not where a test looks at what is traced or compiled.

    What the other platforms run is a quarter of the time to trace a step, and nothing of it is lowered for a CPU. The
    tests marked `platforms` trace it, with every method and on meshes, and those marked `optimized` do.
    """
    optimized = not ON_CPU or request.node.get_closest_marker("optimized") is not None
    if not optimized and request.node.get_closest_marker("platforms") is None:
        monkeypatch.setattr(jax.lax, "platform_dependent", for_cpus_only)
    jax.config.update("jax_disable_most_optimizations", not optimized)
    yield
    jax.config.update("jax_disable_most_optimizations", ON_CPU)
