"""Flax's loops, linen and nnx, take the steps of a plain loop, and read the same partition specs."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import PartitionSpec as P

from tests import catalog
from tests.conformance import harness

X, Y = harness.normal((8, 4), seed=1), harness.normal((8, 3), seed=2)
STEPS = 3


def forward(params, x):
    """The network of both models below."""
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]["kernel"] + params["second"]["bias"]


def start():
    return harness.normal({"first": {"kernel": (4, 4), "bias": (4,)}, "second": {"kernel": (4, 3), "bias": (3,)}})


@functools.cache
def plain(name):
    """The parameters after some steps of a loop without Flax."""
    tx, params = catalog.find(name).make(), start()
    state, update = tx.init(params), jax.jit(tx.update)
    grad = jax.jit(jax.grad(lambda p: jnp.mean((forward(p, X) - Y) ** 2)))
    for _ in range(STEPS):
        updates, state = update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_plain(params, case):
    # Loose, as kl_shampoo amplifies the rounding in which the three programs' gradients differ.
    harness.assert_close(params, plain(case.name), rtol=1e-3, atol=1e-4)


class Linen(nn.Module):
    """Its kernels are boxed with names of mesh axes."""

    @nn.compact
    def __call__(self, x):
        def kernel(*names):
            return nn.with_partitioning(nn.initializers.lecun_normal(), names)

        x = nn.tanh(nn.Dense(4, kernel_init=kernel(None, "data"), name="first")(x))
        return nn.Dense(3, kernel_init=kernel("data", None), name="second")(x)


class Nnx(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.second = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.second(nnx.tanh(self.first(x)))


def linen_params():
    """The parameters of `start`, in linen's boxes."""
    params = Linen().init(jax.random.key(0), X)["params"]
    return nn.meta.replace_boxed(params, start())


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_a_linen_train_state_takes_the_steps_of_a_plain_loop(case):
    state = TrainState.create(apply_fn=Linen().apply, params=linen_params(), tx=case.make())

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.mean((state.apply_fn({"params": p}, X) - Y) ** 2))(state.params)
        return state.apply_gradients(grads=grads)

    for _ in range(STEPS):
        state = step(state)
    assert_plain(nn.meta.unbox(state.params), case)


@harness.each(catalog.DEFAULTS, harness.ONE)
def test_an_nnx_optimizer_takes_the_steps_of_a_plain_loop(case):
    model = Nnx()
    nnx.update(model, start())
    optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
        optimizer.update(model, grads, nobody_knows_this=1)

    for _ in range(STEPS):
        step(model, optimizer)
    assert_plain(nnx.to_pure_dict(nnx.state(model, nnx.Param)), case)


@harness.each(catalog.DEFAULTS)
def test_stacks_of_boxed_parameters_carry_no_parameters_spec(case):
    """Factors have other shapes than parameters: a spec that leaked into them would name axes they do not have."""
    state = jax.eval_shape(case.make().init, linen_params())
    (_, stacks), *_ = optax.tree.get_all_with_path(nn.get_partition_spec(state), "stacks")
    assert set(jax.tree.leaves(stacks, is_leaf=lambda x: isinstance(x, P))) == {P()}
