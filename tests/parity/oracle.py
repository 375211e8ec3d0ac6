"""Whole trajectories of the reference implementations in float64 numpy, written from their equations.

They serve the configurations for which there is no golden trajectory; `test_configurations.py` first shows that they
follow the golden ones.
"""

import math
from fractions import Fraction

import numpy as np

from tests.parity import oracle_roots
from tests.reference import cut, gram, kron_multiply


def _at(rate, step):
    """A learning rate at a step counted from 0."""
    return rate(step) if callable(rate) else rate


def _momentum(step, m, momentum, dampening, nesterov):
    m = momentum * m + (1 - dampening) * step
    return m, ((1 - dampening) * step + momentum * m if nesterov else m)


def meta_shape(shape, limit, target):
    """Axes of 1 dropped, then neighbours merged from the right while more than `target` are left."""
    left = [d for d in shape if d != 1] or [1]
    if target is None:
        return left
    merged = [left.pop()]
    while left:
        d = left.pop()
        if len(merged) + len(left) + 1 > target and merged[-1] * d <= limit:
            merged[-1] *= d
        else:
            merged.append(d)
    return merged[::-1]


def _meta_powers(exponent, k):
    """The exponent of each axis; 0 skips it."""
    found = exponent.get(k) if isinstance(exponent, dict) else exponent
    by_axis = found if isinstance(found, dict) else dict.fromkeys(range(k), found)
    return [Fraction(1, 2 * max(k, 1)) if by_axis.get(i) is None else Fraction(by_axis[i]) for i in range(k)]


class _Graft:
    """One of Meta's grafting methods on one block: (kind, b2, eps)."""

    def __init__(self, kind, b2, eps):
        self.kind, self.b2, self.eps, self.v = kind, b2, eps, 0.0

    def __call__(self, g, lean, t):
        self.v = self.b2 * self.v + (1.0 if self.b2 == 1 else 1 - self.b2) * g**2
        if callable(self.kind):
            return self.kind(lean)
        if self.kind == "sgd":
            return lean
        c = 1 - self.b2**t if self.kind == "adam" else 1.0
        return lean / (np.sqrt(self.v / c) + self.eps)


def meta(
    w, grads, *, lr, b1, b2, eps, block, period, start=None, b3=None, graft=None, decay=0.0, l2=False, momentum=0.0,
    dampening=0.0, nesterov=False, corrected=False, kl=False, exponent=None, bias=True, drop=False, gamma=0.0,
    root=oracle_roots.meta_eigh, basis=None, target=None, peak=None, form="decoupled", averaging=None, ignored=None,
    after=False, inverse=None, descent=None,
):  # fmt: skip
    """Meta's Shampoo of one parameter.

    `corrected`: its EShampoo. `inverse`: the factors are kept as eigenvectors and eigenvalues, and this makes inverse
    powers of them. `descent`: the direction of a block that needs no factors.
    """
    shape, start = w.shape, start or period
    w = w.reshape(meta_shape(shape, block, target)).copy()
    b3, m, velocity, path = b1 if b3 is None else b3, np.zeros_like(w), np.zeros_like(w), []
    z, rates, k = w.copy(), 0.0, w.ndim
    powers = [1] * k if corrected else _meta_powers(exponent, k)
    used = [i for i in range(k) if powers[i] != 0 and i not in (ignored or {}).get(k, ()) and not descent]
    weight, corrected_power = 1.0 if b2 == 1 or drop else 1 - b2, (exponent or {}).get(k, 0.5) if corrected else None
    keep = []
    for b in cut(w, block, ragged=True):
        s = {"L": [np.zeros((d, d)) for d in w[b].shape], "X": [np.eye(d) for d in w[b].shape], "E": 0.0}
        s["Q"] = list(s["X"])
        keep.append((b, s, _Graft(*graft) if graft else None))
    for t, g in enumerate(grads, 1):
        rate = _at(lr, t - 1)
        g = g.reshape(w.shape) + (decay * w if l2 else 0)
        c2 = 1 - b2**t if bias and b2 < 1 and not drop else 1.0
        lean = b3 * m + (1 - b3) * g if b1 else g
        lean = lean / (1 - b3 * b1 ** (t - 1)) if bias and b1 else lean
        m = b1 * m + (1 - b1) * g
        step = np.zeros_like(w)
        for b, s, magnitude in keep:
            seen = []
            for i in used:
                others = [x if j != i else None for j, x in enumerate(s["X"])]
                seen.append(gram(kron_multiply(g[b], others) if kl else g[b], i))
            for i, new in zip(used, seen, strict=True):
                s["L"][i] = b2 * s["L"][i] + weight * new
            if t == start or (t > start and t % period == 0):
                for i in used:
                    a = s["L"][i] / c2
                    if gamma:
                        a = a * max(np.trace(a), eps) ** -gamma
                    ridge = a + (0 if after else eps) * np.eye(len(a))
                    if corrected:
                        s["X"][i] = basis(ridge, s["X"][i]) if basis else np.linalg.eigh(ridge)[1]
                    elif inverse:
                        q = s["Q"][i] = basis(ridge, s["Q"][i])
                        s["X"][i] = q @ np.diag(inverse(np.diag(q.T @ ridge @ q), powers[i], eps)) @ q.T
                    else:
                        s["X"][i] = root(a, powers[i], eps)
            turn = [x.T for x in s["X"]]
            if corrected:
                s["E"] = b2 * s["E"] + weight * kron_multiply(g[b], turn) ** 2
                inner = kron_multiply(lean[b], turn) / ((s["E"] / c2) ** corrected_power + eps)
                direction = kron_multiply(inner, s["X"])
            elif descent:
                direction = descent(lean[b])
            else:
                direction = kron_multiply(lean[b], s["X"])
            if graft:
                size = magnitude(g[b], lean[b], t)
                norm = np.linalg.norm(size) / (np.linalg.norm(direction) + 1e-16)
                direction = size if t < start else direction * norm
            step[b] = direction
        share = {"decoupled": 1.0, "corrected": rate / peak if peak else 0, "independent": 1 / peak if peak else 0}
        shrink = 0 if l2 else share[form] * decay
        if averaging:
            z = (1 - rate * shrink) * z
        else:
            step = step + shrink * w
        if momentum:
            velocity, step = _momentum(step, velocity, momentum, dampening, nesterov)
        if averaging:
            mu_y, mu_x = averaging
            rates += rate**2
            mu_x = 1 - rate**2 / rates if mu_x is None else mu_x
            old, z = z, z - rate * step
            w = w + (1 - mu_x) * (old - w) - (1 - mu_x * mu_y) * rate * step
        else:
            w = w - rate * step
        path.append(w.reshape(shape).copy())
    return np.stack(path)


def google_shape(shape, limit):
    """Neighbours merged from the left."""
    if not limit or not shape:
        return list(shape)
    if all(d == 1 for d in shape):
        return [1]
    product, out = 1, []
    for d in shape:
        if product * d <= limit:
            product *= d
        else:
            if product > 1:
                out.append(product)
            product = d
    return out + ([product] if product > 1 else [])


def _google_graft(kind, g, v, b2, eps):
    if kind.endswith("normalized"):
        g = g / (np.linalg.norm(g) + 1e-25)
    if kind in ("sgd", "none"):
        return g, v
    if kind == "sqrt_n":
        return np.sign(g), v
    sums = kind.startswith("adagrad") or b2 == 1
    v = v + g**2 if sums else b2 * v + (1 - b2) * g**2
    return g / (np.sqrt(v) + eps), v


def google(
    w, grads, *, lr, b1, b2, e_d, e_m, block, start, period, graft, every=1, decay=0.0, decoupled=False,
    nesterov=True, ema=False, override=0, kind="all", max_dim=4096, min_rank=1, merge=0, clip=None,
    decoupled_lr=True, root=oracle_roots.google_eigh, stale=False, threshold=0.1, end=None,
):  # fmt: skip
    """Google's Shampoo of one parameter."""
    shape = w.shape
    skip = len(shape) < min_rank or any(d > max_dim for d in shape)
    w = w.reshape(google_shape(shape, merge)).copy()
    k = w.ndim
    used = {"all": range(k), "input": range(k - 1), "output": range(k - 1, k)}[kind if k > 1 else "all"]
    blocks = [] if skip or k == 0 else cut(w, block, ragged=True)
    skip = skip or k == 0
    factors = [{i: e_m * np.eye(w[b].shape[i]) for i in used} for b in blocks]
    roots = [[np.eye(d) if i in used else None for i, d in enumerate(w[b].shape)] for b in blocks]
    v, m, m_graft, path = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), []
    p, weight, share = override or 2 * len(used), 1.0 if b2 == 1 else 1 - b2, 1 - b1 if ema else 1.0

    def refresh():
        for f, x in zip(factors, roots, strict=True):
            for i in used:
                new, error = root(f[i], 1 / p, e_m)
                if error < threshold:
                    x[i] = new

    for t, g in enumerate(grads):
        rate, g = _at(lr, t), g.reshape(w.shape)
        for b, f in zip(blocks, factors, strict=True):
            if t % every == 0:
                for i in used:
                    f[i] = b2 * f[i] + weight * gram(g[b], i)
        every_so_many = max((period + (1 - rate / _at(lr, 0)) * end) // 10 * 10, 1) if end else period
        if t % every_so_many == 0 and not stale:
            refresh()
        size, v = _google_graft(graft, g, v, b2, e_d)
        if clip:
            size = size / max(1, np.linalg.norm(size) / math.sqrt(size.size) / clip)
        if not decoupled_lr:
            size = size * rate
        direction = size.copy()
        for b, x in zip(blocks, roots, strict=True):
            direction[b] = kron_multiply(g[b], x)
        if graft != "none":
            direction = direction * np.linalg.norm(size) / (np.linalg.norm(direction) + 1e-25)
        if t % every_so_many == 0 and stale:
            refresh()
        coupled = 0 if decoupled else decay * w
        direction, size = direction + coupled, size + coupled
        m, m_graft = b1 * m + share * direction, b1 * m_graft + share * size
        newest, average = (direction, m) if t >= start else (size, m_graft)
        out = share * newest + b1 * average if nesterov else average
        out = out + ((1 if decoupled_lr else rate) * decay * w if decoupled else 0)
        w = w - (rate if decoupled_lr else 1) * out
        path.append(w.reshape(shape).copy())
    return np.stack(path)


def tearfree(
    w, grads, *, lr, graft, merge, block, period, every, b2, start, max_dim, vectors, ema, nesterov, b1, decay, last,
):  # fmt: skip
    """Google's Tearfree Shampoo of one parameter; `graft` makes its own step of a gradient, None takes none."""
    shape = w.shape
    skip = graft is not None and (max(shape, default=0) > max_dim or (not vectors and len(shape) < 2))
    w = w.reshape(google_shape(shape, merge)).copy()
    k, m, path = w.ndim, np.zeros_like(w), []
    blocks = [] if skip else cut(w, block, ragged=True)
    factors = [[np.zeros((d, d)) for d in w[b].shape] for b in blocks]
    roots = [[np.eye(d) for d in w[b].shape] for b in blocks]
    for t, g in enumerate(grads):
        rate, g = _at(lr, t), g.reshape(w.shape)
        size = None if graft is None else graft(g)
        direction = size.copy() if skip else g.copy()
        for b, f, x in zip(blocks, factors, roots, strict=True):
            for i in range(k):
                f[i] = b2 * f[i] + (1.0 if b2 == 1 else 1 - b2) * gram(g[b], i) if t % every == 0 else f[i]
                x[i] = oracle_roots.meta_pseudo_inverse(f[i], 1 / (2 * k), 0, 1e-6) if t % period == 0 else x[i]
            direction[b] = kron_multiply(g[b], x)
        if not skip and graft is not None:
            norm = np.linalg.norm(direction)
            direction = size if t < start else direction * (np.linalg.norm(size) / norm if norm else 0)
        direction = direction + (0 if last else decay * w)
        share = 1 - b1 if ema and b1 else 1.0
        m = b1 * m + share * direction
        step = (share * direction + b1 * m if nesterov else m) + (decay * w if last else 0)
        w = w - rate * step
        path.append(w.reshape(shape).copy())
    return np.stack(path)


def soap(
    w, grads, *, lr, b1, b2, eps, decay, period, b_factor=None, max_dim=10000, vectors=False, bias=True, merge=0,
    channels_last=False, normalized=False,
):  # fmt: skip
    """The official SOAP of one parameter; the momentum is kept in the basis, and rotated with it."""
    shape, rank = w.shape, w.ndim
    order = (0, 3, 1, 2) if channels_last and merge and rank == 4 else tuple(range(rank))
    turned = tuple(shape[i] for i in order)
    back = np.argsort(order)
    read = google_shape(turned, merge) if rank > 1 else list(shape)

    def inward(x):
        return x.transpose(order).reshape(read)

    def outward(x):
        return x.reshape(turned).transpose(back)

    w, k, b_factor = inward(w).copy(), len(read), b2 if b_factor is None else b_factor
    used = [i for i in range(k) if read[i] <= max_dim] if rank > 1 or vectors else []
    basis, factors = [None] * k, {i: (1 - b_factor) * gram(inward(grads[0]), i) for i in used}
    for i in used:
        basis[i] = np.linalg.eigh(factors[i] + 1e-30 * np.eye(len(factors[i])))[1][:, ::-1]
    m, v, path = np.zeros_like(w), np.zeros_like(w), [outward(w).copy()]
    for s, g in enumerate(map(inward, grads[1:]), 1):
        turn = [None if q is None else q.T for q in basis]
        inside = kron_multiply(g, turn)
        m, v = b1 * m + (1 - b1) * inside, b2 * v + (1 - b2) * inside**2
        rate = _at(lr, s)
        scale = rate * np.sqrt(1 - b2**s) / (1 - b1**s) if bias else rate
        step = kron_multiply(m / (np.sqrt(v) + eps), basis)
        if normalized:
            step = step / (1e-30 + np.sqrt(np.mean(step**2)))
        w = (w - scale * step) * (1 - rate * decay)
        m = kron_multiply(m, basis)
        for i in used:
            factors[i] = b_factor * factors[i] + (1 - b_factor) * gram(g, i)
            if s % period == 0:
                by_size = np.argsort(np.diag(basis[i].T @ factors[i] @ basis[i]))[::-1]
                v = np.take(v, by_size, axis=i)
                basis[i] = np.linalg.qr(factors[i] @ basis[i][:, by_size])[0]
        m = kron_multiply(m, [None if q is None else q.T for q in basis])
        path.append(outward(w).copy())
    return np.stack(path)
