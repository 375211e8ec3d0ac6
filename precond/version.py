"""Define the version of the library. pyproject.toml reads it from here, so that a plain checkout knows it too."""

__all__ = ["__version__"]

__version__ = "0.2.0"
