"""Random configurations of the references: each as a recipe, and as the oracle it must follow."""

import functools
import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import precond
from precond import orthogonal, recipes
from tests.parity import oracle, oracle_roots

RATE = 0.01
SHAPES = {"w": (6, 5), "b": (7,), "t": (3, 4, 2), "row": (1, 6), "s": (), "c": (2, 2, 3, 3)}


class Draw(NamedTuple):
    """A recipe, the trajectory of one parameter by the oracle, and what they run on."""

    tx: optax.GradientTransformation
    reference: Callable[..., Any]
    shapes: dict[str, tuple[int, ...]]
    steps: int


def _rate(rng):
    """A learning rate for the recipe and for the oracle."""
    if rng.random() < 0.6:
        return RATE, RATE
    return lambda t: RATE * (0.5 + 0.5 * jnp.cos(0.3 * t)), lambda t: RATE * (0.5 + 0.5 * math.cos(0.3 * t))


def google_grafting(kind, b2, eps):
    """The recipe's argument for a kind of the oracle's."""

    def make():
        if kind == "sqrt_n":
            return optax.scale_by_sign()
        diagonal = precond.transforms.scale_by_diagonal(1.0 if kind.startswith("adagrad") else b2, eps=eps)
        return optax.chain(precond.transforms.normalize(), diagonal) if kind.endswith("normalized") else diagonal

    return {"sgd": optax.identity, "none": None}.get(kind, make)


GOOGLE_WORDS = {
    "b1": "beta1", "b2": "beta2", "e_m": "matrix_epsilon", "block": "block_size", "start": "start_preconditioning_step",
    "period": "preconditioning_compute_steps", "every": "statistics_compute_steps", "decay": "weight_decay",
    "decoupled": "decoupled_weight_decay", "ema": "moving_average_for_momentum", "override": "exponent_override",
    "max_dim": "skip_preconditioning_dim_size_gt", "min_rank": "skip_preconditioning_rank_lt",
    "merge": "merge_small_dims_block_size", "clip": "clip_by_scaled_gradient_norm",
    "decoupled_lr": "decoupled_learning_rate", "nesterov": "nesterov", "stale": "stale",
    "end": "end_preconditioning_compute_steps",
}  # fmt: skip
AXES = {"all": None, "input": lambda k: range(max(k - 1, 1)), "output": [-1]}


def google_recipe(rate, root, given):
    """The recipe for the oracle's arguments."""
    words = {GOOGLE_WORDS[k]: v for k, v in given.items() if k in GOOGLE_WORDS}
    grafting = google_grafting(given["graft"], given["b2"], given["e_d"])
    axes = AXES[given.get("kind", "all")]
    words = {"merge_small_dims_block_size": 0} | words
    return recipes.google_shampoo(rate, grafting=grafting, axes=axes, root=root, **words)


def google(seed):
    rng = random.Random(seed)
    ours, theirs = _rate(rng)
    given = {
        "b1": rng.choice([0.9, 0.0, 0.5]),
        "b2": rng.choice([0.95, 1.0, 0.7]),
        "e_d": rng.choice([1e-6, 1e-8]),
        "e_m": rng.choice([1e-2, 1e-4, 1e-6]),
        "block": rng.choice([3, 4, 64]),
        "start": rng.choice([0, 2, 5]),
        "period": rng.choice([1, 2, 3]),
        "graft": rng.choice(
            ["none", "sgd", "adagrad", "adagrad_normalized", "rmsprop", "rmsprop_normalized", "sqrt_n"]
        ),
        "every": rng.choice([1, 1, 2]),
        "decay": rng.choice([0.0, 0.1]),
        "decoupled": rng.random() < 0.5,
        "nesterov": rng.random() < 0.5,
        "ema": rng.random() < 0.5,
        "override": rng.choice([0, 0, 3, 4]),
        "kind": rng.choice(["all", "all", "input", "output"]),
        "max_dim": rng.choice([4096, 5]),
        "min_rank": rng.choice([0, 1, 2, 3]),
        "merge": rng.choice([0, 0, 6, 12, 4096]),
        "clip": rng.choice([None, 0.5]),
        "decoupled_lr": rng.random() < 0.6,
        "stale": rng.random() < 0.3,
    }
    name, relative = rng.choice(["google_eigh", "google_newton"]), rng.random() < 0.8
    root, solve = (functools.partial(getattr(x, name), relative=relative) for x in (recipes, oracle_roots))
    if name == "google_newton" and rng.random() < 0.5:
        given["threshold"] = 2e-8
        root = functools.partial(root, inverse_failure_threshold=2e-8)
    if callable(ours) and rng.random() < 0.7:
        given["end"] = rng.choice([20, 80])
    tx = google_recipe(ours, root, given)
    return Draw(tx, functools.partial(oracle.google, lr=theirs, root=solve, **given), SHAPES, 9)


META_WORDS = {
    "eps": "epsilon", "block": "max_preconditioner_dim", "period": "precondition_frequency",
    "start": "start_preconditioning_step", "b3": "beta3", "bias": "bias_correction", "drop": "drop_weighting_factor",
    "target": "target_dimensionality", "momentum": "momentum", "dampening": "dampening", "nesterov": "nesterov",
}  # fmt: skip
SOAP_ONLY = {"ignored": "ignored_basis_change_dims", "exponent": "power", "after": "after", "gamma": "trace_scaling"}
SHAMPOO_WORDS = META_WORDS | {"kl": "kullback_leibler", "exponent": "power", "gamma": "trace_scaling"}


def meta_grafting(given):
    """The recipe's argument for the oracle's."""
    if "graft" not in given:
        return None
    kind, b2, eps = given["graft"]
    if kind == "sgd":
        return optax.identity()
    if kind is np.sign:
        return optax.scale_by_sign()
    if kind is oracle_roots.polar:
        return precond.transforms.orthogonalize(recipes.meta_svd())
    return precond.transforms.scale_by_diagonal(b2, eps=eps, bias_correction=kind == "adam")


def meta_recipe(make, rate, given, words, **more):
    """A recipe for the oracle's arguments."""
    renamed = {words[k]: v for k, v in given.items() if k in words}
    decay = {"weight_decay": given.get("decay", 0.0), "decoupled_weight_decay": not given.get("l2", False)}
    betas = {"beta1": given["b1"]} if make is recipes.meta_descent else {"betas": (given["b1"], given["b2"])}
    return make(rate, **betas, grafting=meta_grafting(given), **decay | renamed | more)


EXPONENTS = [
    None, None, Fraction(1, 2), Fraction(1, 3),
    {1: Fraction(1, 2), 2: {0: Fraction(1, 2), 1: 0}, 3: Fraction(1, 4)},
    {2: {1: Fraction(1, 3)}, 3: {0: 0, 1: 0, 2: Fraction(1, 2)}, 1: 0},
]  # fmt: skip


def _method(rng):
    """A method of the recipes and the oracle's for it: eigh or QR, with a tolerance or without."""
    tolerance, count = rng.choice([0.0, 0.2]), rng.choice([1, 3])
    if rng.random() < 0.5:
        return recipes.meta_eigh_basis(tolerance), functools.partial(oracle_roots.eigh_unless, tolerance=tolerance)
    theirs = functools.partial(oracle_roots.qr_algorithm, iterations=count, tolerance=tolerance)
    return recipes.meta_qr_basis(count, tolerance), theirs


def _eigendecomposed(rng, given):
    """A root that keeps eigenvectors and eigenvalues, and what the oracle needs for it."""
    method, basis = _method(rng)
    kind = rng.choice(["before", "after", "pseudo_inverse"])
    inverse = {
        "before": oracle_roots.perturbed,
        "after": functools.partial(oracle_roots.perturbed, after=True),
        "pseudo_inverse": functools.partial(oracle_roots.pseudo_inverse, rtol=1e-3),
    }[kind]
    words = {"pseudo_inverse": True, "rtol": 1e-3} if kind == "pseudo_inverse" else {"after": kind == "after"}
    # By then the factors have full rank: the basis of a null space that a tolerance keeps is arbitrary.
    given |= {"basis": basis, "inverse": inverse, "after": kind == "after", "start": 5, "block": 3}
    given["eps"] = 0.0 if kind == "pseudo_inverse" else 1e-3
    return functools.partial(recipes.meta_eigendecomposed, method=method, **words)


def _meta_root(rng):
    """A root of the recipes, of the oracle, an epsilon and an exponent."""
    kind, order = rng.choice(["eigh", "eigh_after", "newton", "higher_order", "pseudo_inverse"]), rng.choice([2, 3, 4])
    exponents = [*EXPONENTS, *([Fraction(2, 3)] if kind != "newton" else [])]
    epsilon, exponent = rng.choice([1e-2, 1e-3]), rng.choice(exponents)
    more = {"higher_order": {"order": order, "relative": 1e-3}, "pseudo_inverse": {"rtol": 1e-6}}.get(kind, {})
    theirs = functools.partial(getattr(oracle_roots, f"meta_{kind}"), **more)
    if kind == "eigh_after":
        return functools.partial(recipes.meta_eigh, after=True), theirs, epsilon, exponent
    ours = functools.partial(getattr(recipes, f"meta_{kind}"), **more)
    return ours, theirs, 0.0 if kind == "pseudo_inverse" else epsilon, exponent


def _decay(rng, rate, given):
    """The recipe's `weight_decay` for the oracle's form of it."""
    given |= {"decay": rng.choice([0.0, 0.1]), "l2": rng.random() < 0.3, "peak": RATE}
    given["form"] = rng.choice(["decoupled", "corrected", "independent"])
    if given["l2"] or given["form"] == "decoupled":
        return given["decay"]
    if given["form"] == "independent":
        return given["decay"] / RATE
    return lambda t: given["decay"] * (rate(t) if callable(rate) else rate) / RATE


def meta_shampoo(seed):
    rng = random.Random(seed)
    ours, theirs = _rate(rng)
    root, solve, epsilon, exponent = _meta_root(rng)
    period = rng.choice([1, 2, 3])
    given = {
        "b1": rng.choice([0.9, 0.0, 0.5]),
        "b2": rng.choice([0.95, 1.0, 0.8]),
        "eps": epsilon,
        "block": rng.choice([3, 4, 64]),
        "period": period,
        "start": rng.choice([None, period, period + 1, period + 2]),
        "b3": rng.choice([None, 0.81, 0.3]),
        "kl": rng.random() < 0.3,
        "exponent": exponent,
        "bias": rng.random() < 0.6,
        "drop": rng.random() < 0.3,
        "gamma": rng.choice([0.0, 0.0, 0.5]),
        "target": rng.choice([None, None, 1, 2]),
    }
    if rng.random() < 0.3:
        root = _eigendecomposed(rng, given)
    more = {"root": root} | _behind(rng, ours, given)
    tx = meta_recipe(recipes.meta_shampoo, ours, given, SHAMPOO_WORDS, **more)
    return Draw(tx, functools.partial(oracle.meta, lr=theirs, root=solve, **given), SHAPES, 8)


def _behind(rng, rate, given):
    """Decay, graft, and a momentum or an averaging."""
    decay = _decay(rng, rate, given)
    kind = rng.choice([None, "sgd", "adagrad", "rmsprop", "adam", np.sign])
    if kind is not None:
        given["graft"] = (kind, 0.9 if kind in ("rmsprop", "adam") else 1.0, 1e-6)
    if rng.random() < 0.4:
        given |= {"momentum": 0.7, "dampening": rng.choice([0.0, 0.2]), "nesterov": rng.random() < 0.5}
        return {"weight_decay": decay}
    mus = given["averaging"] = rng.choice([None, (0.9, 0.9), (1.0, 0.8), (0.7, None)])
    averaging = recipes.primal_averaging(*mus, learning_rate=rate) if mus else None
    return {"weight_decay": decay, "averaging": averaging}


def _scaled_sign(g):
    return np.sign(g) * np.abs(g).sum()


MODULA = [(3.0, -16 / 5, 6 / 5)] * 5
ONE_NORM = precond.per_block(optax.stateless_with_tree_map(lambda g, _: jnp.sign(g) * jnp.abs(g).sum()))
ORTHOGONALIZE = precond.transforms.orthogonalize
DESCENTS = {
    "sign": (None, np.sign),
    "scaled sign": (ONE_NORM, _scaled_sign),
    "svd": (ORTHOGONALIZE(recipes.meta_svd()), oracle_roots.polar),
    "nuclear norm": (
        ORTHOGONALIZE(recipes.meta_svd(scale_by_nuclear_norm=True)),
        functools.partial(oracle_roots.polar, nuclear=True),
    ),
    "newton_schulz": (
        ORTHOGONALIZE(orthogonal.newton_schulz(MODULA)),
        functools.partial(oracle_roots.newton_schulz, polynomials=MODULA),
    ),
}


def meta_descent(seed):
    rng = random.Random(seed)
    ours, theirs = _rate(rng)
    kind = rng.choice(list(DESCENTS))
    direction, descent = DESCENTS[kind]
    matrices = kind not in ("sign", "scaled sign")
    given = {
        "b1": rng.choice([0.9, 0.0]),
        "b2": 1.0,
        "eps": 0.0,
        "block": rng.choice([3, 64]),
        "period": 1,
        "start": rng.choice([None, 3]),
        "b3": rng.choice([None, 0.3]),
        "bias": rng.random() < 0.6,
        "target": 2 if matrices else rng.choice([None, 1]),
    }
    more = _behind(rng, ours, given)
    if matrices and rng.random() < 0.3:
        given["graft"] = (oracle_roots.polar, 1.0, 0.0)
    words = {k: v for k, v in META_WORDS.items() if k not in ("eps", "drop")}
    tx = meta_recipe(recipes.meta_descent, ours, given, words, direction=direction, **more)
    reference = functools.partial(oracle.meta, lr=theirs, descent=descent, **given)
    return Draw(tx, reference, {"w": (6, 5), "v": (3, 7)} if matrices else SHAPES, 6)


def meta_soap(seed):
    rng = random.Random(seed)
    method, basis = _method(rng)
    given = {
        "b1": rng.choice([0.9, 0.0]),
        "b2": rng.choice([0.95, 1.0]),
        "eps": rng.choice([1e-5, 1e-3]),
        "block": rng.choice([3, 64]),
        "period": rng.choice([1, 2, 3]),
        "start": 9,  # by then the factors have full rank, and a basis of each is the basis
        "bias": rng.random() < 0.5,
        "drop": rng.random() < 0.4,
        "target": rng.choice([None, 1, 2]),
        "after": rng.random() < 0.3,
        "ignored": rng.choice([None, {1: [0], 2: [1]}, {3: [0, 2], 4: [1]}]),
        "exponent": rng.choice([None, {2: 0.25, 3: 0.4}, {1: 0.3}]),
        "gamma": rng.choice([0.0, 0.0, 0.5]),
    }
    if given["target"] is not None:
        given["block"] = 3  # or one axis has more entries than there are steps
    more = {"method": method} | _behind(rng, RATE, given)
    words = META_WORDS | SOAP_ONLY
    recipe = {k: v for k, v in given.items() if k != "exponent"} | {"exponent": given["exponent"] or 0.5}
    tx = meta_recipe(recipes.meta_soap, RATE, recipe, words, **more)
    return Draw(tx, functools.partial(oracle.meta, lr=RATE, corrected=True, basis=basis, **given), SHAPES, 15)


TEARFREE_WORDS = {
    "merge": "merge_dims", "block": "block_size", "period": "update_preconditioners_freq", "ema": "ema",
    "every": "update_statistics_freq", "b2": "second_moment_decay", "start": "start_preconditioning_step",
    "max_dim": "skip_preconditioning_any_dim_gt", "nesterov": "nesterov", "b1": "momentum_decay",
    "decay": "weight_decay", "last": "weight_decay_after_momentum",
}  # fmt: skip


class _Rms:
    """The step of RMSprop (1: of AdaGrad) of one parameter."""

    def __init__(self, decay):
        self.decay, self.v = decay, 0.0

    def __call__(self, g):
        self.v = self.v + g**2 if self.decay == 1 else self.decay * self.v + (1 - self.decay) * g**2
        return g / np.sqrt(self.v + 1e-8)


TEARFREE_GRAFTS = {
    "none": (None, lambda: None),
    "sgd": (optax.identity(), lambda: np.copy),
    "rmsprop": (optax.scale_by_rms(0.9, 1e-8), lambda: _Rms(0.9)),
    "adagrad": (optax.scale_by_rss(0.0, 1e-8), lambda: _Rms(1.0)),
}


def tearfree(seed):
    rng = random.Random(seed)
    ours, theirs = _rate(rng)
    given = {
        "merge": rng.choice([2, 6, 1024]),
        "block": rng.choice([3, 4, 1024]),
        "period": rng.choice([1, 2, 3]),
        "every": rng.choice([1, 2]),
        "b2": rng.choice([0.9, 1.0]),
        "start": rng.choice([0, 3]),
        "max_dim": rng.choice([5, 4096]),
        "vectors": rng.random() < 0.5,
        "ema": rng.random() < 0.5,
        "nesterov": rng.random() < 0.5,
        "b1": rng.choice([0.9, 0.0]),
        "decay": rng.choice([0.0, 0.1]),
        "last": rng.random() < 0.5,
    }
    grafting, make = TEARFREE_GRAFTS[rng.choice(list(TEARFREE_GRAFTS))]
    words = {TEARFREE_WORDS[k]: v for k, v in given.items() if k in TEARFREE_WORDS}
    tx = recipes.google_tearfree(ours, grafting=grafting, skip_preconditioning_rank1=not given["vectors"], **words)
    return Draw(tx, lambda w, grads: oracle.tearfree(w, grads, lr=theirs, graft=make(), **given), SHAPES, 8)


SOAP_WORDS = {
    "b1": "b1", "b2": "b2", "b_factor": "shampoo_beta", "eps": "eps", "decay": "weight_decay",
    "period": "precondition_frequency", "max_dim": "max_precond_dim", "bias": "bias_correction", "merge": "merge",
    "channels_last": "channels_last", "normalized": "normalize_grads", "vectors": "precondition_1d",
}  # fmt: skip


def soap_recipe(rate, given):
    """The recipe for the oracle's arguments."""
    return recipes.official_soap(rate, **{SOAP_WORDS[k]: v for k, v in given.items()})


def _full_rank(shape, given):
    """Whether every factor of the first gradient has full rank: else an eigenbasis is arbitrary."""
    if len(shape) < 2:
        return True
    order = (0, 3, 1, 2) if given["channels_last"] and given["merge"] and len(shape) == 4 else range(len(shape))
    read = oracle.google_shape([shape[i] for i in order], given["merge"])
    return all(d <= math.prod(read) // d or d > given["max_dim"] for d in read)


def soap(seed):
    rng = random.Random(seed)
    ours, theirs = _rate(rng)
    given = {
        "b1": rng.choice([0.9, 0.95]),
        "b2": rng.choice([0.9, 0.99]),
        "b_factor": rng.choice([None, 0.8]),
        "eps": rng.choice([1e-6, 1e-8]),
        "decay": rng.choice([0.0, 0.1]),
        "period": rng.choice([1, 2, 3]),
        "max_dim": rng.choice([10000, 4]),
        "bias": rng.random() < 0.7,
        "merge": rng.choice([0, 0, 6, 12]),
        "channels_last": rng.random() < 0.5,
        "normalized": rng.random() < 0.4,
        "vectors": rng.random() < 0.4,
    }
    # The factor of a vector has rank 1 at first: what is left of its basis is arbitrary, but for one column.
    shapes = {"w": (5, 5), "t": (3, 4, 2), "c": (2, 3, 3, 2), "b": (2,) if given["vectors"] else (4,), "s": ()}
    shapes = {k: v for k, v in shapes.items() if _full_rank(v, given)}
    return Draw(soap_recipe(ours, given), functools.partial(oracle.soap, lr=theirs, **given), shapes, 9)


FAMILIES = {
    "google": google, "tearfree": tearfree, "meta_shampoo": meta_shampoo, "meta_soap": meta_soap,
    "meta_descent": meta_descent, "soap": soap,
}  # fmt: skip
