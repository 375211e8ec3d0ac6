"""PPO for continuous actions with K-FAC, as ACKTR has it: an actor and a critic, and a free `log_std`.

K-FAC needs three things more than other optimizers: a capture of the model, which leaves `log_std` to Adam; what the
outputs are the parameters of; and `layers.value_grad_factors` in place of `jax.value_and_grad`. AdamW, wrapped by
`optax.with_extra_args_support`, ignores the factors, and jit leaves them out. A point shall come to rest at the origin;
what is returned is the mean cost.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import precond
from precond import layers
from precond.layers import linen

RATE, STEPS = 3e-3, 60
KFAC_RATE, KFAC_OPTIONS = 0.1, {"damping": 1e-2, "bound": 1e-3}  # a bound on the step, so that the rate may be large
OPTIONS = {}
ENVIRONMENTS, LENGTH, EPOCHS, MINIBATCHES, DISCOUNT, LAMBDA, CLIP = 16, 32, 2, 4, 0.95, 0.9, 0.2


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.param("log_std", nn.initializers.constant(-0.5), (2,))
        heads = []
        for name, outputs in (("actor", 2), ("critic", 1)):
            h = x
            for i in range(2):
                h = nn.tanh(nn.Dense(32, name=f"{name}_{i}")(h))
            heads.append(nn.Dense(outputs, kernel_init=nn.initializers.normal(0.01), name=f"{name}_out")(h))
        return heads[0], heads[1][..., 0]


def start(key):
    return jax.random.uniform(key, (ENVIRONMENTS, 4), minval=-1.0)


def advance(state, action):
    """Places and speeds, and what they cost."""
    place, speed = jnp.split(state, 2, axis=-1)
    speed = 0.95 * speed + 0.2 * jnp.clip(action, -1, 1)
    state = jnp.concatenate([jnp.clip(place + 0.2 * speed, -2, 2), speed], axis=-1)
    return state, jnp.sum(state**2, axis=-1) + 0.05 * jnp.sum(action**2, axis=-1)


def log_p(mean, log_std, action):
    return jnp.sum(-0.5 * ((action - mean) / jnp.exp(log_std)) ** 2 - log_std, axis=-1)


def rollout(apply, params, key):
    def act(state, key):
        mean, value = apply(params, state)
        action = mean + jnp.exp(params["log_std"]) * jax.random.normal(key, mean.shape)
        following, cost = advance(state, action)
        chance = log_p(mean, params["log_std"], action)
        return following, {"x": state, "action": action, "log_p": chance, "value": value, "cost": cost}

    begin, acts = jax.random.split(key)
    last, seen = jax.lax.scan(act, start(begin), jax.random.split(acts, LENGTH))

    def back(carry, now):
        advantage, following = carry
        advantage = -0.1 * now["cost"] + DISCOUNT * following - now["value"] + DISCOUNT * LAMBDA * advantage
        return (advantage, now["value"]), advantage

    value = apply(params, last)[1]
    seen["advantage"] = jax.lax.scan(back, (jnp.zeros_like(value), value), seen, reverse=True)[1]
    seen["target"] = seen["advantage"] + seen["value"]
    return jax.tree.map(lambda x: x.reshape(ENVIRONMENTS * LENGTH, *x.shape[2:]), seen)


def objective(outputs, batch):
    (mean, log_std), value = outputs
    ratio = jnp.exp(log_p(mean, log_std, batch["action"]) - batch["log_p"])
    a = (batch["advantage"] - batch["advantage"].mean()) / (batch["advantage"].std() + 1e-8)
    actor = -jnp.minimum(ratio * a, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * a).mean()
    return actor + 0.5 * jnp.mean((value - batch["target"]) ** 2)


def new_capture(seed):
    """The model's parameters, and where its layers are."""
    model, example = ActorCritic(), jnp.ones((8, 4))
    variables = model.init(jax.random.key(seed), example)
    return variables["params"], linen.capture(model, variables, example, allow_uncovered=["log_std"])


def train(tx, steps=STEPS, seed=0):
    params, capture = new_capture(seed)
    tx = optax.with_extra_args_support(tx(capture.layers) if callable(tx) else tx)

    def apply(params, x):
        return capture.apply({"params": params}, x)

    def forward(params, batch):
        mean, value = apply(params, batch["x"])
        return (mean, params["log_std"]), value

    fisher = layers.sampled(layers.joint(layers.gaussian(None), layers.gaussian()))
    value_grad_factors = layers.value_grad_factors(forward, objective, capture, fisher=fisher)

    def minibatch(carry, now):
        params, state = carry
        batch, key = now
        _, grads, factors = value_grad_factors(params, batch, key=key)
        updates, state = tx.update(grads, state, params, factors=factors)
        return (optax.apply_updates(params, updates), state), None

    def iteration(carry, key):
        acts, draws, *epochs = jax.random.split(key, 2 + EPOCHS)
        seen = rollout(apply, carry[0], acts)
        order = jnp.concatenate([jax.random.permutation(k, ENVIRONMENTS * LENGTH) for k in epochs])
        batches = jax.tree.map(lambda x: x[order.reshape(EPOCHS * MINIBATCHES, -1)], seen)
        carry, _ = jax.lax.scan(minibatch, carry, (batches, jax.random.split(draws, EPOCHS * MINIBATCHES)))
        return carry, seen["cost"].mean()

    @jax.jit
    def run(params, keys):
        return jax.lax.scan(iteration, (params, tx.init(params)), keys)[1]

    return run(params, jax.random.split(jax.random.key(seed + 1), steps)).tolist()


if __name__ == "__main__":
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes
    print(train(lambda found: precond.kfac(KFAC_RATE, found, **KFAC_OPTIONS))[-1])
