"""Record factors of a real training run: `python tests/roots/record.py` writes `recording.npz` beside itself.

A small transformer learns Python's standard library with SOAP. The Gram matrices of its gradients, averaged with two
decays, are kept at consecutive refreshes, as upper triangles in float32.
"""

import pathlib
import sys

import jax
import numpy as np
import optax
from flax import nnx

import precond

HERE = pathlib.Path(__file__).parent
WIDTH, LENGTH, BATCH = 64, 32, 16
FIRST, PERIOD, REFRESHES = 150, 10, 6
DECAYS = (0.99, 0.95)
FACTORS = {
    "attention.query, inputs": lambda g: g.blocks[0].attention.query.kernel[...].reshape(WIDTH, -1),
    "mlp.up, inputs": lambda g: g.blocks[1].up.kernel[...],
    "mlp.down, outputs": lambda g: g.blocks[1].down.kernel[...].T,
}


def main():
    sys.path.insert(0, str(HERE.parents[1] / "examples"))
    from text import SYMBOLS, batches, standard_library
    from transformer import Transformer, loss

    steps = FIRST + PERIOD * (REFRESHES - 1)
    graph, params = nnx.split(Transformer(SYMBOLS, LENGTH, nnx.Rngs(0), width=WIDTH))
    tx = precond.soap(3e-3)

    @jax.jit
    def step(params, state, batch):
        value, gradients = jax.value_and_grad(lambda p: loss(nnx.merge(graph, p), batch))(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value, gradients

    state = tx.init(params)
    averages = np.zeros((len(DECAYS), len(FACTORS), WIDTH, WIDTH))
    kept = []
    for t, batch in enumerate(batches(standard_library().train, steps, BATCH, LENGTH, seed=0), 1):
        params, state, value, gradients = step(params, state, batch)
        seen = [np.asarray(of(gradients), np.float64) for of in FACTORS.values()]
        grams = np.stack([g @ g.T for g in seen])
        for i, decay in enumerate(DECAYS):
            averages[i] = decay * averages[i] + (1 - decay) * grams
        if t >= FIRST and (t - FIRST) % PERIOD == 0:
            kept.append(averages.astype(np.float32)[..., *np.triu_indices(WIDTH)])
            values = np.linalg.eigvalsh(averages[0])
            conditions = ", ".join(f"{c:.0e}" for c in values[:, -1] / values[:, 0])
            print(f"step {t}, loss {float(value):.2f}, conditions {conditions}")
    # [decays, factors, refreshes, entries of a triangle]
    triangles = np.moveaxis(np.stack(kept), 0, 2)
    path = HERE / "recording.npz"
    np.savez_compressed(path, triangles=triangles, decays=np.asarray(DECAYS), names=np.asarray(list(FACTORS)))
    print(f"{path.name}: {triangles.shape}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
