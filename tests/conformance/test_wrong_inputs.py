"""Wrong inputs are refused by name: by this library, where they are typed, in one line."""

import fractions
import inspect
import linecache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import precond
from precond import (
    adascale,
    contrib,
    ekfac,
    kfac,
    kl_shampoo,
    kl_soap,
    large_batches,
    layers,
    mfac,
    muon,
    neumann,
    orthogonal,
    recipes,
    relative,
    replicas,
    shampoo,
    soap,
    transforms,
    views,
)
from precond.command import main
from precond.layers import linen
from precond.layers import nnx as nnx_front
from tests.conformance import wrong_inputs

LONGEST = 700


def rows(table):
    return [tuple(line.rsplit(" -> ", 1)) for line in table.strip().splitlines()]


CALLS = [row for table in wrong_inputs.WRONG.values() for row in rows(table)]


class Tensor:
    """What another library calls a tensor: it has a shape and a dtype, which JAX does not know."""

    dtype = "torch.float32"

    def __init__(self, shape):
        self.shape, self.ndim = shape, len(shape)


def engine(**parts):
    """The first step of an engine with parts of its own."""
    given = {"statistics": precond.outer_products(), "root": precond.inverse_root()} | parts
    return jax.eval_shape(step_of(precond.blocked(precond.scale_by_kronecker(**given))), {"kernel": jnp.ones((4, 3))})


def step_of(tx):
    return lambda params: tx.update(params, tx.init(params), params)[0]


def inside(tx):
    """The first step in a `shard_map` over the axis `data`."""
    mesh, whole = jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec()
    return jax.shard_map(step_of(tx), mesh=mesh, in_specs=whole, out_specs=whole)({"kernel": jnp.ones((4, 3))})


@pytest.fixture(scope="module")
def names():
    """What the calls speak of."""
    params = {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.ones(3)}
    capture = layers.explicit({"": layers.dense()}, params)
    x, tx = jnp.ones((2, 4)), shampoo(1e-3)
    linear, module = nn.Dense(3), nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    own = {
        "P": params,
        "SHAPES": jax.eval_shape(lambda: params),
        "X": x,
        "TX": tx,
        "STATE": tx.init(params),
        "NESTED": precond.blocked(optax.chain(precond.scale_by_shampoo())).init(params),
        "LAYERS": capture.layers,
        "CAPTURE": capture,
        "F": lambda p, x: capture.apply("", p, x @ p["kernel"] + p["bias"], x),
        "LOSS": lambda outputs, x: jnp.mean(outputs**2),
        "FACTORS": lambda f, **given: layers.value_grad_factors(
            f, lambda outputs, x: jnp.mean(outputs**2), capture, fisher=layers.empirical(), **given
        ),
        "KFAC": kfac(1e-3, capture.layers),
        "ADASCALE": adascale(optax.sgd, 0.1, scale=4),
        "KRONECKER": precond.scale_by_kronecker(precond.outer_products(), precond.inverse_root()),
        "MESH": jax.make_mesh((1,), ("data",)),
        "KEYS": jax.random.split(jax.random.key(0)),
        "nnx": nnx,
        "CAPTURE_NNX": nnx_front.capture(module, x),
        "MIXED": {"a": jnp.ones((4, 3)), 0: jnp.ones((3, 2))},
        "ENGINE": engine,
        "INSIDE": inside,
        "MODEL": linear,
        "VARIABLES": linear.init(jax.random.key(0), x),
        "NNX": module,
        "View": precond.View,
        "TENSORS": {name: Tensor(x.shape) for name, x in params.items()},
        "NDIM": lambda tree: jax.tree.map(lambda leaf: int(leaf.ndim == 1), tree),
        "LOOP": lambda u, p: jax.lax.fori_loop(0, 3, lambda i, u: jax.tree.map(lambda x: -2 * x, u), u),
        "FITTED": lambda u, p: jax.tree.map(lambda x: -x * jnp.ones(3), u),
    }
    modules = (adascale, contrib, ekfac, kfac, kl_shampoo, kl_soap, large_batches, layers, linen, mfac, muon, neumann)
    modules += (orthogonal, precond, recipes, relative, replicas, shampoo, soap, transforms, views)
    known = {"jnp": jnp, "np": np, "jax": jax, "optax": optax, "nnx_front": nnx_front, "nn": nn, "fractions": fractions}
    return known | {m.__name__.rsplit(".", 1)[-1]: m for m in modules} | known | own


def raised_here(error):
    """Whether a line of this library that begins with `raise` (or warns) made the error."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    line = linecache.getline(frame.f_code.co_filename, trace.tb_lineno).strip()
    return frame.f_globals["__name__"].startswith("precond.") and line.startswith(("raise ", "warnings.warn("))


@pytest.mark.parametrize(("call", "words"), CALLS, ids=[call for call, _ in CALLS])
def test_it_is_refused_by_name(call, words, names):
    with pytest.raises((TypeError, ValueError, UserWarning)) as caught:
        eval(call, dict(names))
    message = str(caught.value)
    assert words in message
    assert raised_here(caught.value), caught.value
    assert len(message.partition("\n")[0]) <= LONGEST
    assert " at 0x" not in message
    assert "Array(" not in message


@pytest.mark.parametrize(("words", "part"), rows(wrong_inputs.COMMANDS))
def test_the_command_line_says_what_is_wrong(words, part, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert part in capsys.readouterr().err


def test_there_are_many_and_few_are_accepted():
    assert len(set(CALLS)) == len(CALLS)
    assert len(CALLS) + len(rows(wrong_inputs.COMMANDS)) >= 250
    assert len(wrong_inputs.ACCEPTED) <= 5


@pytest.mark.parametrize("call", wrong_inputs.ACCEPTED)
def test_what_is_accepted_is_so_still(call, names):
    eval(call, dict(names))


def numbers():
    """Every argument of a public function that needs no other arguments, and that has a number as its default."""
    modules = (contrib, large_batches, layers, orthogonal, precond, precond.roots, recipes, transforms, views)
    functions = {f for m in modules for name in m.__all__ if inspect.isfunction(f := getattr(m, name))}
    for f in sorted(functions, key=lambda f: (f.__module__, f.__name__)):
        given = inspect.signature(f).parameters.values()
        if all(p.default is not p.empty or p.name == "learning_rate" for p in given):
            rate = {"learning_rate": 0.1} if any(p.default is p.empty for p in given) else {}
            yield from ((f, rate, p.name) for p in given if type(p.default) in (int, float))


def test_a_number_is_one_real_number():
    found = list(numbers())
    assert len(found) > 150
    for f, rate, name in found:
        for wrong in (True, 1j, np.ones(2), "0.5", float("nan")):
            with pytest.raises((TypeError, ValueError), match=name) as caught:
                f(**rate | {name: wrong})
            assert raised_here(caught.value), (f, name, wrong)
