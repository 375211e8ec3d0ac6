"""PPO as in purejaxrl: rollouts, epochs and minibatches in `jax.lax.scan`, all of it in `jax.vmap` over seeds.

The environment is CartPole. What is returned is the share of steps at which the pole falls, which training makes small.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import precond

RATE, STEPS, SEEDS = 2.5e-3, 40, 2
OPTIONS = {}
ENVIRONMENTS, LENGTH, EPOCHS, MINIBATCHES, DISCOUNT, LAMBDA, CLIP = 8, 64, 4, 4, 0.99, 0.95, 0.2


def start(key):
    return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)


def advance(key, state, action):
    """One fiftieth of a second of CartPole; where the pole fell, a new one."""
    _, v, angle, turn = state
    push, sin, cos = jnp.where(action == 1, 10.0, -10.0), jnp.sin(angle), jnp.cos(angle)
    pull = (push + 0.05 * turn**2 * sin) / 1.1
    spin = (9.8 * sin - cos * pull) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    state = state + 0.02 * jnp.stack([v, pull - 0.05 * spin * cos / 1.1, turn, spin])
    fell = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 0.2095)
    return jnp.where(fell, start(key), state), fell


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x):
        def head(outputs, scale):
            h = x
            for _ in range(2):
                h = nn.tanh(nn.Dense(64, kernel_init=nn.initializers.lecun_normal())(h))
            return nn.Dense(outputs, kernel_init=nn.initializers.normal(scale / 8))(h)

        return head(2, 0.01), head(1, 1.0)[..., 0]


def advantages(rewards, falls, values, last):
    def back(carry, now):
        advantage, following = carry
        reward, fell, value = now
        delta = reward + DISCOUNT * following * (1 - fell) - value
        advantage = delta + DISCOUNT * LAMBDA * (1 - fell) * advantage
        return (advantage, value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last), last), (rewards, falls, values), reverse=True)[1]


def objective(params, apply, batch):
    logits, values = apply({"params": params}, batch["x"])
    chosen = jax.nn.log_softmax(logits)
    ratio = jnp.exp(jnp.take_along_axis(chosen, batch["action"][:, None], 1)[:, 0] - batch["log_p"])
    a = (batch["advantage"] - batch["advantage"].mean()) / (batch["advantage"].std() + 1e-8)
    actor = -jnp.minimum(ratio * a, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * a).mean()
    entropy = -jnp.sum(jnp.exp(chosen) * chosen, axis=-1).mean()
    return actor + 0.5 * jnp.mean((values - batch["target"]) ** 2) - 0.01 * entropy


def one_run(tx, steps, key):
    model, (key, first) = ActorCritic(), jax.random.split(key)
    params = model.init(first, jnp.zeros(4))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.chain(optax.clip_by_global_norm(0.5), tx))

    def act(carry, key):
        state, x = carry
        logits, value = state.apply_fn({"params": state.params}, x)
        action = jax.random.categorical(key, logits)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
        following, fell = jax.vmap(advance)(jax.random.split(key, ENVIRONMENTS), x, action)
        return (state, following), {"x": x, "action": action, "log_p": log_p, "value": value, "fell": 1.0 * fell}

    def minibatch(state, batch):
        return state.apply_gradients(grads=jax.grad(objective)(state.params, state.apply_fn, batch)), None

    def iteration(carry, key):
        acts, shuffles = jax.random.split(key)
        (state, x), seen = jax.lax.scan(act, carry, jax.random.split(acts, LENGTH))
        last = state.apply_fn({"params": state.params}, x)[1]
        seen["advantage"] = advantages(jnp.ones_like(seen["fell"]), seen["fell"], seen["value"], last)
        seen["target"] = seen["advantage"] + seen["value"]
        flat = jax.tree.map(lambda a: a.reshape(LENGTH * ENVIRONMENTS, *a.shape[2:]), seen)

        def epoch(state, key):
            order = jax.random.permutation(key, LENGTH * ENVIRONMENTS).reshape(MINIBATCHES, -1)
            return jax.lax.scan(minibatch, state, jax.tree.map(lambda a: a[order], flat))

        state, _ = jax.lax.scan(epoch, state, jax.random.split(shuffles, EPOCHS))
        return (state, x), seen["fell"].mean()

    start_key, key = jax.random.split(key)
    x = jax.vmap(start)(jax.random.split(start_key, ENVIRONMENTS))
    return jax.lax.scan(iteration, (state, x), jax.random.split(key, steps))[1]


def train(tx, steps=STEPS, seed=0):
    keys = jax.random.split(jax.random.key(seed), SEEDS)
    return np.mean(jax.jit(jax.vmap(lambda key: one_run(tx, steps, key)))(keys), axis=0).tolist()


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes
