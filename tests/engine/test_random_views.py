"""The engine with every kind of part, on random trees and views, against dense definitions: `np.kron` and LAPACK."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import precond
from precond import View
from tests.reference import cut, gram, kron_multiply, power

pytestmark = pytest.mark.usefixtures("x64")

DECAY, EPS = 0.8, 0.05
DAMPING = {
    "relative": (precond.relative(EPS), lambda a: EPS * np.linalg.eigvalsh(a)[-1]),
    "absolute": (precond.absolute(EPS), lambda a: EPS),
    "trace": (precond.roots.trace_damping(EPS), lambda a: EPS * np.trace(a) / len(a)),
}
STATISTICS = {
    "averaged": (precond.outer_products(DECAY), lambda t: (1 - DECAY) / (1 - DECAY**t)),
    "biased": (precond.outer_products(DECAY, bias_correction=False), lambda t: 1 - DECAY),
    "whitened": (precond.kl(DECAY), lambda t: (1 - DECAY) / (1 - DECAY**t)),
}


@st.composite
def parameters(draw):
    """A few shapes, each with a view of some of its axes: batch axes, merged axes, passive axes."""
    out = {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
        used = draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))]
        cuts = draw(st.integers(1, min(len(used), 3)))
        groups = tuple(tuple(used[i::cuts]) for i in range(cuts))
        out[name] = shape, View(groups, (0,) if len(groups) > 1 and draw(st.booleans()) else ())
    return out


def tensors_of(x, view):
    """The batch of tensors that a view reads, `[B, d1, .., dk]`, and how to put one that has changed back."""
    batch = [i for i in range(x.ndim) if i not in [a for group in view.axes for a in group]]
    order = [*batch, *(a for group in view.axes for a in group)]
    sizes = [math.prod(x.shape[a] for a in group) for group in view.axes]
    moved = x.transpose(order)
    return moved.reshape(-1, *sizes), lambda y: y.reshape(moved.shape).transpose(np.argsort(order))


class Block:
    """What a definition keeps of one block; `active` are the axes with a factor."""

    def __init__(self, shape, active, statistic, root, damping):
        self.active, self.statistic, self.root, self.ridge, self.t = active, statistic, root, DAMPING[damping][1], 0
        self.factors = {i: np.zeros((shape[i],) * 2) for i in active}
        self.matrices = [np.eye(d) if i in active else None for i, d in enumerate(shape)]
        self.v = np.zeros(shape)
        self.unit = 0.0

    def seen(self, g, axis):
        if self.statistic != "whitened":
            return gram(g, axis)
        others = [None if j == axis else x for j, x in enumerate(self.white())]
        return gram(kron_multiply(g, others), axis) / (g.size / g.shape[axis])

    def white(self):
        out = []
        for i, q in enumerate(self.matrices):
            if q is None or (self.root == "inverse_root" and self.factors[i].any()):
                out.append(q)
                continue
            if not self.factors[i].any():  # no root is known yet
                out.append(np.eye(len(q)) / np.sqrt(self.unit))
                continue
            values = np.diag(q.T @ self.factors[i] @ q)
            kept = values > 1e-12 * values.max()
            inverse = np.where(kept, np.where(kept, values, 1) ** -0.5, 0)
            out.append((q * inverse) @ q.T)
        return out

    def step(self, g):
        self.t += 1
        self.unit = self.unit or np.sqrt(np.mean(g**2))
        seen = {i: self.seen(g, i) for i in self.active}
        weight = STATISTICS[self.statistic][1](self.t)
        keep = DECAY if self.statistic == "biased" else 1 - weight
        for i, a in seen.items():
            self.factors[i] = keep * self.factors[i] + weight * a
            if self.root == "inverse_root":
                self.matrices[i] = power(self.factors[i], -1 / (2 * len(self.active)), self.ridge(self.factors[i]))
            else:
                self.matrices[i] = np.linalg.eigh(self.factors[i])[1]
        if self.root == "inverse_root":
            return kron_multiply(g, self.matrices)
        turn = [None if q is None else q.T for q in self.matrices]
        self.v = DECAY * self.v + (1 - DECAY) * kron_multiply(g, turn) ** 2
        inner = kron_multiply(g, turn) / (np.sqrt(self.v / (1 - DECAY**self.t)) + EPS)
        return kron_multiply(inner, self.matrices)


def defined(gradients, view, size, *kinds):
    """The updates of one parameter."""
    tensors, _ = tensors_of(gradients[0], view)
    passive, out = view.passive, []
    # A passive axis is not cut.
    whole = [slice(0, 1) if i in passive else slice(0, d) for i, d in enumerate(tensors.shape[1:])]
    edges = [
        tuple(slice(None) if i in passive else e for i, e in enumerate(b)) for b in cut(tensors[0][tuple(whole)], size)
    ]
    active = [i for i in range(tensors.ndim - 1) if i not in passive]
    blocks = [[Block(x[b].shape, active, *kinds) for b in edges] for x in tensors]
    for g in gradients:
        tensors, back = tensors_of(g, view)
        moved = np.zeros_like(tensors)
        for n, x in enumerate(tensors):
            for b, block in zip(edges, blocks[n], strict=True):
                moved[n][b] = block.step(x[b])
        out.append(back(moved))
    return out


def check(problem, size, statistic, root, damping):
    views = {k: view for k, (_, view) in problem.items()}
    parts = {
        "inverse_root": precond.inverse_root(method=precond.eigh(), damping=DAMPING[damping][0]),
        "eigenbasis": precond.eigenbasis(DECAY, eps=EPS, method=precond.eigh()),
    }
    engine = precond.scale_by_kronecker(STATISTICS[statistic][0], parts[root])
    tx = precond.blocked(engine, block_size=size, views=lambda path, leaf: views[path])
    rng = np.random.default_rng(0)
    grads = [{k: rng.standard_normal(shape) for k, (shape, _) in problem.items()} for _ in range(2)]
    state, update, out = tx.init(grads[0]), jax.jit(tx.update), []
    for g in grads:
        updates, state = update(jax.tree.map(jnp.asarray, g), state)
        out.append(updates)
    for k, view in views.items():
        expected = defined([g[k] for g in grads], view, size, statistic, root, damping)
        for ours, theirs in zip(out, expected, strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


DRAWS = {
    "problem": parameters(),
    "size": st.sampled_from([2, 3, 64]),
    "statistic": st.sampled_from(list(STATISTICS)),
    "root": st.sampled_from(["inverse_root", "inverse_root", "eigenbasis"]),
    "damping": st.sampled_from(list(DAMPING)),
}


@settings(max_examples=4)
@given(**DRAWS)
def test_the_engine_is_its_dense_definition(problem, size, statistic, root, damping):
    check(problem, size, statistic, root, damping)


@pytest.mark.slow
@settings(max_examples=60)
@given(**DRAWS)
def test_the_engine_is_its_dense_definition_for_many_trees(problem, size, statistic, root, damping):
    check(problem, size, statistic, root, damping)
