"""Eight CPU devices, one thread of BLAS each, and float64 for the tests that ask for it."""

import os

# Before numpy and jax are imported: eight devices that each start a pool of threads stand in each other's way.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 8)

# Compilation takes what it takes; and the same examples every time, so that a failure can be found again.
settings.register_profile("precond", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("precond")


@pytest.fixture
def x64():
    """Run a test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compilation():
    """Compile in a third of the time, to slower programs."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
