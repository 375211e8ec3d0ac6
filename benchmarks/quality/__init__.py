"""How well each optimizer trains, on tasks without a download, with the same search for all."""

import sys
from pathlib import Path

# The tasks take models and data from the examples.
EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path += [str(EXAMPLES), str(EXAMPLES / "programs")]
