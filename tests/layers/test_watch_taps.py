"""K-FAC without curvature is refused, or counted: taps that are never called, derivatives by the input, no factors."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import precond
from precond import layers
from precond.layers import linen
from precond.layers import nnx as nnx_front

X = jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)


@pytest.fixture(scope="module")
def net():
    model = nn.Sequential([nn.Dense(3), nn.tanh, nn.Dense(1)])
    variables = model.init(jax.random.key(0), X)
    return model, variables["params"], linen.capture(model, variables, X)


def squares(outputs, x):
    return jnp.mean(outputs**2)


def factors_of(forward, net):
    _, params, capture = net
    return layers.value_grad_factors(forward, squares, capture, fisher=layers.empirical())(params, X)[2]


def slope(apply, params):
    """The derivative of the model by its input, of each example."""
    return jax.vmap(jax.grad(lambda z: apply({"params": params}, z[None])[0, 0]))(X)[:, :1]


def test_a_model_without_taps_is_refused(net):
    model, _, _ = net
    with pytest.raises(ValueError, match=r"calls no layer of the capture.*capture.apply"):
        factors_of(lambda params, x: model.apply({"params": params}, x), net)


def test_a_function_that_was_traced_before_is_believed(net):
    capture = net[2]
    inner = jax.jit(lambda params, x: capture.apply({"params": params}, x))
    first, second = (factors_of(lambda params, x: inner(params, x), net) for _ in range(2))
    chex.assert_trees_all_equal(second, first)
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(second))


class Cell(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(2, name="dense")(x)), None


class Halves(nn.Module):
    """Two halves, each with a method of its own; the second is a scan."""

    def setup(self):
        self.first = nn.Dense(2)
        self.scanned = nn.scan(Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()

    def __call__(self, x):
        return self.b(self.a(x))

    def a(self, x):
        return nn.tanh(self.first(x))

    def b(self, x):
        return self.scanned(x, None)[0]


@pytest.mark.parametrize("traced", [False, True])
def test_half_a_model_without_taps_is_refused(traced):
    model = Halves()
    variables = model.init(jax.random.key(0), X)
    capture = linen.capture(model, variables, X)

    def plain(method):
        def apply(params, x):
            return model.apply({"params": params}, x, method=method)

        return jax.jit(apply) if traced else apply

    def tapped(method):
        return lambda params, x: capture.apply({"params": params}, x, method=method)

    for first, second, name in ((plain("a"), tapped("b"), "first"), (tapped("a"), plain("b"), "scanned/dense")):
        with pytest.raises(ValueError, match=rf"the layers '{name}' of the capture.*capture.apply"):
            factors_of(lambda p, x: second(p, first(p, x)), (model, variables["params"], capture))  # noqa: B023
    factors = factors_of(tapped("a"), (model, variables["params"], capture))
    assert not jnp.any(factors["scanned/dense"].inputs)  # is not called, and has no gradient either


@pytest.mark.parametrize("by", [jax.grad, jax.hessian, jax.jacfwd])
def test_a_derivative_by_the_input_is_refused(by, net):
    capture = net[2]

    def forward(params, x):
        return jax.vmap(by(lambda z: capture.apply({"params": params}, z[None])[0, 0]))(x)

    with pytest.raises(ValueError, match=r"capture.detach"):
        factors_of(forward, net)
    with pytest.raises(ValueError, match=r"capture.detach"):
        factors_of(lambda params, x: capture.apply({"params": params}, x) + jnp.sum(forward(params, x)), net)


def test_what_the_error_says_to_write_has_the_gradient_of_all_and_the_factors_of_the_outputs(net):
    model, params, capture = net

    def forward(params, x):
        return capture.apply({"params": params}, x) + slope(model.apply, capture.detach(params))

    f = layers.value_grad_factors(forward, squares, capture, fisher=layers.exact(layers.gaussian()))
    _, grads, factors = f(params, X)
    expected = jax.grad(lambda p: squares(model.apply({"params": p}, X) + slope(model.apply, p), X))(params)
    chex.assert_trees_all_close(grads, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(factors["layers_2"].outputs, 1, rtol=1e-6)  # of a Gaussian with one output


def with_slope(by, net):
    """A loss of the outputs and of a derivative by the input, with probes among the parameters."""
    capture = net[2]

    def loss(params):
        def inner(z):
            return capture.apply({"params": params}, z[None])[0, 0]

        return jnp.mean((capture.apply({"params": params}, X)[:, 0] + jax.vmap(by(inner))(X).sum((1,))) ** 2)

    return loss, capture.attach(net[1])


TWICE = {
    "gradient": jax.grad,
    "hessian": lambda f: lambda z: jax.hessian(f)(z)[0],
    "gradient of gradient": lambda f: jax.grad(lambda z: jax.grad(f)(z)[0]),
}


@pytest.mark.parametrize("by", TWICE.values(), ids=TWICE)
def test_a_derivative_by_the_input_is_refused_with_probes_among_the_parameters(by, net):
    loss, params = with_slope(by, net)
    with pytest.raises(ValueError, match=r"capture.detach"):
        jax.grad(loss)(params)
    with pytest.raises(ValueError, match=r"capture.detach"):
        jax.jit(jax.grad(loss))(params)


def test_it_is_refused_in_a_function_that_was_traced_before(net):
    capture = net[2]

    @jax.jit
    def forward(params, x):
        inner = jax.vmap(jax.grad(lambda z: capture.apply({"params": params}, z[None])[0, 0]))(x)
        return capture.apply({"params": params}, x) + inner[:, :1]

    forward(capture.attach(net[1]), X)
    with pytest.raises(ValueError, match=r"capture.detach"):
        factors_of(lambda params, x: forward(params, x), net)


@pytest.mark.parametrize("function", ["factors_alone", "with_fisher"])
def test_it_is_refused_by_every_function_that_makes_factors(function, net):
    _, params, capture = net

    def forward(params, x):
        inner = jax.vmap(jax.grad(lambda z: capture.apply({"params": params}, z[None])[0, 0]))(x)
        return capture.apply({"params": params}, x) + inner[:, :1]

    fisher = layers.exact(layers.gaussian())
    calls = {
        "factors_alone": lambda: layers.factors_alone(forward, capture, fisher=fisher)(params, X),
        "with_fisher": lambda: jax.grad(lambda p: squares(layers.with_fisher(forward, fisher)(p, X), X))(
            capture.attach(params)
        ),
    }
    with pytest.raises(ValueError, match=r"capture.detach"):
        calls[function]()


def test_it_is_refused_in_an_nnx_model_with_probes():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    tapped = nnx_front.attached(model, nnx_front.capture(model, X))
    with pytest.raises(ValueError, match=r"capture.detach"):
        nnx.grad(lambda model: jnp.mean(model(X) + jax.grad(lambda x: jnp.sum(model(x) ** 2))(X)))(tapped)


def test_a_step_may_be_differentiated_by_what_is_no_probe():
    """As meta-gradients do, outside of jit, too."""
    params = {"kernel": jnp.ones((2, 1)), "bias": jnp.zeros(1)}
    capture = layers.explicit({"": layers.dense()}, params)
    f = layers.value_grad_factors(
        lambda p, x: capture.apply("", p, x @ p["kernel"] + p["bias"], x),
        squares,
        capture,
        fisher=layers.exact(layers.gaussian()),
    )

    def after(rate):
        tx = precond.kfac(rate, capture.layers, damping=1.0, bound=jnp.inf)
        _, grads, factors = f(params, X)
        state = tx.update(grads, tx.init(params), params, factors=factors)[1]
        return tx.update(grads, state, params, factors=factors)[0]["kernel"].sum()

    np.testing.assert_allclose(jax.grad(after)(0.1), after(1.0), rtol=1e-5)  # it is linear in the rate


@pytest.mark.parametrize("around", [lambda tx: tx, lambda tx: optax.MultiSteps(tx, 1)], ids=["bare", "MultiSteps"])
def test_ekfac_counts_steps_without_factors(around, net):
    _, params, capture = net
    tx = around(precond.ekfac(1e-2, capture.layers))
    state = tx.init(params)
    zeros = {
        name: layers.LayerFactors(*[jnp.zeros((1, n, n)) for n in sizes], jnp.zeros((1, *sizes)))
        for name, sizes in (("layers_0", (3, 3)), ("layers_2", (4, 1)))
    }
    update = jax.jit(tx.update)
    for _ in range(2):
        state = update(params, state, params, factors=zeros)[1]
    assert int(precond.metrics(state)["kfac/unseen"]) == 2


def test_steps_without_factors_are_counted(net):
    _, params, capture = net
    tx = precond.kfac(1e-2, capture.layers)
    f = factors_of(lambda p, x: capture.apply({"params": p}, x), net)
    some = {**f, "layers_0": jax.tree.map(jnp.zeros_like, f["layers_0"])}
    state, update, seen = tx.init(params), jax.jit(tx.update), []
    for factors in (f, None, None, f, jax.tree.map(jnp.zeros_like, f), some, f):
        state = update(params, state, params, factors=factors)[1]
        seen.append(int(precond.metrics(state)["kfac/unseen"]))
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_what_pads_a_stack_is_not_counted(net):
    _, params, capture = net
    tx = precond.kfac(1e-2, capture.layers, axis=precond.sharded(None, multiple=4))
    f = factors_of(lambda p, x: capture.apply({"params": p}, x), net)
    state = jax.jit(tx.update)(params, tx.init(params), params, factors=f)[1]
    assert int(precond.metrics(state)["kfac/unseen"]) == 0


def test_gradients_are_no_factors(net):
    _, params, capture = net
    tx = precond.kfac(1e-2, capture.layers)
    with pytest.raises(TypeError, match=r"factors=.*third result"):
        tx.update(params, tx.init(params), params, factors=params)


def of_slope(apply, params):
    return jnp.mean(jax.jvp(lambda x: apply({"params": params}, x), (X,), (jnp.ones_like(X),))[1] ** 2)


FORWARD = {
    "grad of a loss with jvp": lambda apply, params: jax.grad(lambda p: of_slope(apply, p))(params),
    "the same in jit": lambda apply, params: jax.jit(jax.grad(lambda p: of_slope(apply, p)))(params),
    "jacfwd by the input": lambda apply, params: jax.jacfwd(lambda x: apply({"params": params}, x))(X),
    "jvp by the parameters": lambda apply, params: jax.jvp(
        lambda p: squares(apply({"params": p}, X), X), (params,), (params,)
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_derivative_in_forward_mode_is_refused_outside_of_a_watch(name, net):
    model, params, capture = net
    with pytest.raises(ValueError, match=r"derivative of the model with its taps.*capture.detach"):
        FORWARD[name](capture.apply, capture.attach(params))
    FORWARD[name](model.apply, params)
