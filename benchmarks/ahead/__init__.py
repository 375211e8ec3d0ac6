"""What `benchmarks/accelerators.py` is made of: models, loops, targets, and a reader of compiled programs."""
