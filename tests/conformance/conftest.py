"""What the modules here may ask for."""

import jax
import pytest


@pytest.fixture
def quick_compilation():
    """Compile in a third of the time, to slower programs: for tests of types and trees."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
