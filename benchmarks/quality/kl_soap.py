"""Train a small transformer with KL-SOAP and with its parts as they once were, one choice at a time.

    python -m benchmarks.quality.kl_soap                                  writes results/kl_soap.json
    PYTHONPATH=/old:. python -P -m benchmarks.quality.kl_soap --parts     the parts alone, of a checkout at /old

The task is `characters` of the quality benchmark, at the best learning rate of AdamW there. A last loss is the mean
over the last three fortieths of the steps.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import precond
from benchmarks import measure
from benchmarks.quality.texts import characters

RATE, BINS = 0.0161, 40


def parts(rate):
    """The parts of KL-SOAP, put together by hand with the numbers of the paper."""
    root = precond.eigenbasis(0.95, eps=1e-8)
    engine = precond.scale_by_kronecker(precond.kl(0.95), root, momentum=optax.ema(0.9), refresh=precond.every(1))
    rest = optax.scale_by_adam(0.9, 0.95)
    return optax.chain(precond.blocked(engine, otherwise=rest), optax.scale_by_learning_rate(rate))


def chosen(**options):
    """KL-SOAP with some choices of its own."""
    return lambda rate: precond.kl_soap(rate, **options)


def variants():
    """By name, as the page writes them: a function of the learning rate."""
    now, unchanged = {"refresh": precond.every(1)}, {"transport": precond.roots.unchanged()}
    return {
        "AdamW": lambda rate: optax.adamw(rate, b2=0.95, weight_decay=0.0),
        "kl_soap, by its defaults": chosen(),
        "`refresh=every(1)`": chosen(**now),
        "`refresh=every(1)`, `eps=1e-8`": chosen(**now, eps=1e-8),
        "`refresh=every(1)`, `transport=unchanged()`": chosen(**now, **unchanged),
        "`refresh=every(1)`, `damping=0`": chosen(**now, damping=0.0),
        "`refresh=every(1)`, `eps=1e-8`, `transport=unchanged()`": chosen(**now, eps=1e-8, **unchanged),
        "the parts as they were": parts,
    }


def last_losses(task, make, seeds):
    """Train with each seed, with a warm-up over a tenth of the steps and a cosine."""

    def rate(count):
        warm = jnp.minimum((count + 1) / (0.1 * task.steps), 1)
        return RATE * warm * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / task.steps, 1)))

    tx = make(rate)

    def step(carry, count, key):
        params, state = carry
        batch = task.batch(jax.random.split(jax.random.fold_in(key, count))[0])
        value, grads = jax.value_and_grad(lambda p: task.loss(task.forward(p, batch), batch))(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def train(params, key):
        carry = params, tx.init(params)
        return jax.lax.scan(lambda c, count: step(c, count, key), carry, jnp.arange(task.steps))[1]

    found = []
    for seed in seeds:
        first, key = jax.random.split(jax.random.key(seed))
        losses = train(task.init(first), key)[-3 * (task.steps // BINS) :]
        found.append(round(float(losses.mean()), 3))
    return found


def main():
    """Train all of them, or the parts alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", action="store_true", help="train the parts alone, and write nothing")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    task, seeds = characters(), range(1, given.seeds + 1)
    makes, found = {precond.__file__: parts} if given.parts else variants(), {}
    for name, make in makes.items():
        found[name] = last_losses(task, make, seeds)
        print(name, found[name], flush=True)
    if not given.parts:
        measure.save("kl_soap", {"learning_rate": RATE, "seeds": list(seeds), "last_losses": found})


if __name__ == "__main__":
    main()
