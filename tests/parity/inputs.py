"""The fixed float64 problem that every golden trajectory runs on."""

import numpy as np

SHAPES = {"w": (12, 8), "big": (20, 27), "b": (7,), "conv": (3, 2, 5, 6), "t3": (4, 5, 6), "s": (), "row": (1, 9)}


def params():
    rng = np.random.default_rng(7)
    return {k: rng.standard_normal(s) for k, s in SHAPES.items()}


def grads(steps):
    rng = np.random.default_rng(11)
    # Correlated, badly scaled gradients: a fixed mixing matrix per axis makes the factors anisotropic.
    mix = {k: [rng.standard_normal((d, d)) for d in s] for k, s in SHAPES.items()}
    out = []
    for _ in range(steps):
        g = {}
        for k, s in SHAPES.items():
            x = rng.standard_normal(s)
            for ax, m in enumerate(mix[k]):
                x = np.moveaxis(np.tensordot(m, x, axes=(1, ax)), 0, ax)
            g[k] = np.asarray(x * 10.0 ** rng.uniform(-2, 0))
        out.append(g)
    return out
