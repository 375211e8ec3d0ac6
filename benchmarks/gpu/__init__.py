"""Measure on a GPU that is there: products, refreshes, and whole training steps. `make gpu` runs it."""
