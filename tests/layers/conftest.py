"""Float64, and quick compilation to slow programs, for all tests here."""

import pytest


@pytest.fixture(autouse=True)
def quick_float64(quick_compilation, x64):
    """Both, for each test."""
