"""Float64, and quick compilation to slow programs, for all tests here."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_float64():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
