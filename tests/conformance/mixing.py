"""What the tests of mixtures share: a small problem, every system, and the arguments of systems and of callers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import layers, recipes
from precond.layers import LayerFactors
from precond.replicas import Replicas
from tests.conformance import harness

SHAPES = {
    "one": {"kernel": (8, 3), "bias": (3,)},
    "two": {"kernel": (3, 2), "bias": (2,)},
    "gain": {"scale": (4,)},
    "table": {"embedding": (5, 2)},
}
WHOLE = tuple(SHAPES)
FIRST, SECOND = ("one", "gain"), ("two", "table")
"""The two groups of a partition: each has a layer, and a parameter that no system has a view of."""
LABELS = dict.fromkeys(FIRST, "a") | dict.fromkeys(SECOND, "b")

ORDER = (0, 1, 2)
BAD = -1
SCALE = 4


@functools.cache
def captured():
    """The layers of an explicit capture. Their shapes differ, as the bases of EK-FAC are found by shape."""
    found = {"one": layers.dense(), "two": layers.dense()}
    uncovered = ("gain/scale", "table/embedding")
    return layers.explicit(found, jax.eval_shape(lambda: harness.normal(SHAPES)), allow_uncovered=uncovered).layers


def by_layer(inner, otherwise):
    """A transformation of stacks that gets the factors of the layers."""
    inner = precond.by_layer(inner, captured())
    return precond.blocked(inner, block_size=None, views=precond.views.layers(captured()), otherwise=otherwise)


def only(name):
    """One of the two layers."""
    return {name: captured()[name]}


def part(tree, names):
    """The subtree of these names, each parameter at the same path as before."""
    return {name: tree[name] for name in names}


def parameters(step):
    """They move from step to step, whatever the updates are, so that all systems see the same ones."""
    return harness.normal(SHAPES, seed=100 + step, dtype=jnp.float64)


def gradients(step):
    return harness.normal(SHAPES, seed=200 + step, dtype=jnp.float64)


def factors(step, moments=True):
    """Positive definite factors of each layer; its second moments are needed by EK-FAC, and ignored by K-FAC."""
    rng = np.random.default_rng(300 + step)

    def definite(d):
        x = rng.standard_normal((1, d, d))
        return jnp.asarray(x @ x.transpose(0, 2, 1) + np.eye(d))

    def one(shape):
        rows, columns = shape[0] + 1, shape[1]
        measured = jnp.asarray(rng.uniform(0.5, 2, (1, rows, columns)))
        return LayerFactors(definite(rows), definite(columns), measured if moments else None)

    return {name: one(SHAPES[name]["kernel"]) for name in ("one", "two")}


def replicas(step, names=WHOLE, times=1):
    """Statistics of as many gradients as there are base batches in a step, or of several such sets."""
    square, count = jax.tree.map(lambda g: jnp.sum(g**2), part(gradients(step), names)), times * SCALE
    return Replicas(count, count, jax.tree.map(lambda s: 3.0 * times * s, square), square)


FUNCTIONS = {
    "value_fn": lambda params: optax.tree.norm(params, squared=True),
    "grad_fn": lambda params: jax.tree.map(jnp.sin, params),
    "curvature": lambda v: v,
}
"""Those that some system calls, on whatever parameters it is given."""


def arguments(step, **changes):
    """Everything that some system reads from `update`, and what Optax's line searches read."""
    usual = {"factors": factors(step), "replicas": replicas(step), "value": jnp.asarray(1.0 + step)}
    return usual | {"grad": gradients(step)} | changes


NAMES = (
    *(name for name in precond.BlockInfo._fields if name != "factors"),
    "axis",
    "name",
    "stack",
    "whiten",
    "going",
    "share",
    "sections",
    "total",
    "packed",
    "blocks",
    "members",
    "moments",
    "gram",
    "momentum",
    "key",
    "scale",
    "terms",
    "inner",
    "count",
    "tree",
)
"""Extra arguments of callers. Each is a word that the library uses, or once used, for something of its own."""

READ = {"adascale": {"scale"}}
"""Those of them that a system documents as its own."""


def callers(*systems, turn=0):
    """An arbitrary value for each name: a string, an array, a tree, a boolean or a key."""
    tree = {"1x1": jnp.ones((2, 1)), "deep": [None, 1.5]}
    kinds = ("mine", jnp.arange(3.0), tree, False, jax.random.key(0), np.ones(2))
    taken = set().union(*(READ.get(system, set()) for system in systems))
    given = {name: kinds[(i + turn) % len(kinds)] for i, name in enumerate(NAMES)}
    return {name: x for name, x in given.items() if name not in taken}


def _bare(rate, **engine):
    """The parts of Shampoo, put together by hand."""
    direction = precond.scale_by_kronecker(precond.outer_products(0.9), precond.inverse_root(), refresh=2)
    grafted = precond.graft(direction, precond.per_block(optax.scale_by_rms(0.9)))
    return optax.chain(precond.blocked(grafted, **engine), optax.scale(-rate))


LATE = precond.every(2, delay=1)  # on one device, too, as its default is on a mesh


def _shampoo(rate, **engine):
    return precond.shampoo(rate, refresh=LATE, **engine)


def _soap(rate, **engine):
    return precond.soap(rate, refresh=2, **engine)


def _kl_shampoo(rate, **engine):
    return precond.kl_shampoo(rate, refresh=2, **engine)


def _muon(rate, **engine):
    return precond.muon(rate, **engine)


def _kfac(rate, layers=None, **engine):
    given = captured() if layers is None else layers
    return precond.kfac(rate, given, refresh=2, damping=0.1, bound=0.5, **engine)


def _ekfac(rate, layers=None, **engine):
    given = captured() if layers is None else layers
    return precond.ekfac(rate, given, refresh=2, damping=0.1, bound=0.5, **engine)


def _mfac(rate):
    return precond.mfac(rate, window=2, damping=1.0)


def _neumann(rate):
    return precond.neumann(rate, warmup=1)


def _adascale(rate, **engine):
    return precond.adascale(functools.partial(_shampoo, **engine), rate, SCALE)


def _google(rate, **engine):
    return recipes.google_shampoo(rate, start_preconditioning_step=1, **engine)


def _kl_soap(rate, **engine):
    return precond.kl_soap(rate, **engine)


def _meta(rate, **engine):
    # With the epsilon of theirs, factors of little rank enlarge rounding to a hundredth.
    return recipes.meta_shampoo(rate, precondition_frequency=2, start_preconditioning_step=1, epsilon=1e-2, **engine)


def _official_soap(rate, **engine):
    return recipes.official_soap(rate, precondition_frequency=2, **engine)


def _nvidia(rate, **engine):
    return recipes.nvidia_kl_soap(rate, eps=1e-2, **engine)  # as above


def _efcp(rate):
    return precond.mfac(rate, window=2, damping=1.0, rank=1)


def _tearfree(rate, **engine):
    return recipes.google_tearfree(rate, **engine)


def _nvidia_muon(rate, **engine):
    return recipes.nvidia_muon(rate, **engine)


def _levenberg_marquardt(rate, **engine):
    made = functools.partial(precond.shampoo, rate, refresh=LATE, **engine)
    return precond.transforms.levenberg_marquardt(lambda damping: made(damping=damping))


def _neumann_series(rate):
    return optax.chain(precond.contrib.scale_by_neumann_series(0.1, 2), optax.scale(-rate))


def _nlcg(rate):
    return optax.chain(precond.contrib.scale_by_nlcg(), optax.scale(-rate))


def _meta_soap(rate, **engine):
    return recipes.meta_soap(rate, precondition_frequency=2, epsilon=1e-2, **engine)


def _meta_descent(rate, **engine):
    return recipes.meta_descent(rate, **engine)


SYSTEMS = {
    "kfac": _kfac,
    "shampoo": _shampoo,
    "soap": _soap,
    "ekfac": _ekfac,
    "kl_shampoo": _kl_shampoo,
    "muon": _muon,
    "mfac": _mfac,
    "neumann": _neumann,
    "adascale": _adascale,
    "google": _google,
    "bare": _bare,
    "kl_soap": _kl_soap,
    "meta": _meta,
    "official_soap": _official_soap,
    "nvidia": _nvidia,
    "efcp": _efcp,
    "tearfree": _tearfree,
    "nvidia_muon": _nvidia_muon,
    "levenberg_marquardt": _levenberg_marquardt,
    "neumann_series": _neumann_series,
    "nlcg": _nlcg,
    "meta_soap": _meta_soap,
    "meta_descent": _meta_descent,
}
ENGINES = ("kfac", "shampoo", "soap", "ekfac", "kl_shampoo", "muon", "bare", "kl_soap")
"""Those that take another transformation for the parameters without a view, as `otherwise`."""
LAYERED = ("kfac", "ekfac")
DIVIDED = (
    *ENGINES,
    "adascale",
    "google",
    "meta",
    "official_soap",
    "nvidia",
    "tearfree",
    "nvidia_muon",
    "meta_soap",
    "meta_descent",
)
"""Those that divide their stacks over the devices of a mesh axis."""


def make(name, rate=1.0, **more):
    return optax.with_extra_args_support(SYSTEMS[name](rate, **more))


def first_layer(path, leaf):
    """The views of an engine that leaves all but one matrix to `otherwise`."""
    return precond.views.default(path, leaf) if path == "one/kernel" else None


def outer(name, **more):
    """An engine that has the first layer alone, at a learning rate of a half."""
    own = {"layers": only("one")} if name in LAYERED else {"views": first_layer}
    return make(name, 0.5, **own, **more)


def inner(name, **more):
    """A system for the rest, where one that takes layers has the second; as a direction, along the gradient."""
    own = {"layers": only("two")} if name in LAYERED else {}
    return optax.chain(make(name, 1.0, **own, **more), optax.scale(-1.0))


def run(tx, names=WHOLE, *, given=arguments, extra=None, grads=gradients, cut=None, order=ORDER, place=lambda x: x):
    """Return the updates of some steps, and the last state.

    The arguments that systems read are traced. Those of callers are not, as strings are no arrays.

    Args:
      tx: a transformation.
      names: those of the parameters that it is given.
      given: from a step to arguments of `update`.
      extra: arguments of callers, the same in each step.
      grads: from a step to gradients of all parameters.
      cut: from a tree to that part of it which the transformation is given, in place of `names`.
      order: the steps. A step may come twice, and `BAD` is one whose gradient is not finite.
      place: puts arrays onto devices.
    """
    tx, extra = optax.with_extra_args_support(tx), {} if extra is None else extra
    cut = functools.partial(part, names=names) if cut is None else cut
    update = jax.jit(lambda g, s, p, more: tx.update(g, s, p, **(FUNCTIONS | more | extra)))
    state, out = jax.jit(tx.init)(place(cut(parameters(0)))), []
    for step in order:
        g = jax.tree.map(lambda x: x * jnp.nan, grads(0)) if step == BAD else grads(step)
        updates, state = update(place(cut(g)), state, place(cut(parameters(max(step, 0)))), given(max(step, 0)))
        out.append(updates)
    return out, state


@functools.cache
def alone(name, names=WHOLE, rate=1.0):
    """The updates of a system by itself, without any argument of callers."""
    return run(make(name, rate), names)[0]


def assert_same(actual, expected):
    """All finite, of the same structure, and equal but for rounding in float64."""
    harness.assert_finite(actual)
    harness.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def pairs(rows, columns, *quick):
    """All pairs of two lists of names, as test parameters: the quick ones, and the others as slow ones."""
    every = [(row, column) for row in rows for column in columns]
    assert set(quick) <= set(every)
    return [pytest.param(*pair, marks=[] if pair in quick else pytest.mark.slow) for pair in every]


def systems(*quick, but=()):
    """All systems, as test parameters: the quick ones, and the others as slow ones."""
    return [pytest.param(x, marks=[] if x in quick else pytest.mark.slow) for x in SYSTEMS if x not in but]
