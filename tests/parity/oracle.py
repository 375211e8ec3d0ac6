"""Whole trajectories of the reference implementations in float64 numpy, written from their equations.

They serve the configurations for which there is no golden trajectory; `test_configurations.py` first shows that they
follow the golden ones.
"""

import numpy as np

from tests.reference import cut, gram, kron_multiply


def _root(a, exponent, eps):
    """Meta's eigendecomposition root: eigenvalues shifted up until the smallest is eps."""
    values, vectors = np.linalg.eigh(a + eps * np.eye(len(a)))
    values = values + max(0.0, eps - values.min())
    return (vectors * values**-exponent) @ vectors.T


def _momentum(step, m, momentum, dampening, nesterov):
    m = momentum * m + (1 - dampening) * step
    return m, ((1 - dampening) * step + momentum * m if nesterov else m)


def meta(
    w, grads, *, lr, b1, b2, eps, block, period, start=None, b3=None, graft=None, decay=0.0, l2=False, momentum=0.0,
    dampening=0.0, nesterov=False, corrected=False, kl=False, exponent=None, bias=True,
):  # fmt: skip
    """Meta's Shampoo (`corrected`: its EShampoo) of one parameter; `graft` is (kind, b2, eps)."""
    shape, start = w.shape, start or period
    w = w.reshape([d for d in shape if d != 1] or [1]).copy()
    b3, m, velocity, path = b1 if b3 is None else b3, np.zeros_like(w), np.zeros_like(w), []
    blocks = cut(w, block)
    keep = [
        {"L": [np.zeros((d, d)) for d in w[b].shape], "X": [np.eye(d) for d in w[b].shape], "v": 0.0, "E": 0.0}
        for b in blocks
    ]
    k, weight = w.ndim, 1.0 if b2 == 1 else 1 - b2
    q = 1 / (2 * k) if exponent is None else exponent
    for t, g in enumerate(grads, 1):
        g = g.reshape(w.shape) + (decay * w if l2 else 0)
        c2 = 1 - b2**t if bias and b2 < 1 else 1.0
        lean = b3 * m + (1 - b3) * g if b1 else g
        lean = lean / (1 - b3 * b1 ** (t - 1)) if bias and b1 else lean
        m = b1 * m + (1 - b1) * g
        step = np.zeros_like(w)
        for b, s in zip(blocks, keep, strict=True):
            others = [[x if j != i else None for j, x in enumerate(s["X"])] for i in range(k)]
            seen = [gram(kron_multiply(g[b], o) if kl else g[b], i) for i, o in enumerate(others)]
            s["L"] = [b2 * f + weight * x for f, x in zip(s["L"], seen, strict=True)]
            if t == start or (t > start and t % period == 0):
                if corrected:
                    s["X"] = [np.linalg.eigh(f / c2)[1] for f in s["L"]]
                else:
                    s["X"] = [_root(f / c2, q, eps) for f in s["L"]]
            turn = [x.T for x in s["X"]]
            if corrected:
                s["E"] = b2 * s["E"] + weight * kron_multiply(g[b], turn) ** 2
                inner = kron_multiply(lean[b], turn) / (np.sqrt(s["E"] / c2) + eps)
                direction = kron_multiply(inner, s["X"])
            else:
                direction = kron_multiply(lean[b], s["X"])
            if graft:
                kind, bg, eg = graft
                s["v"] = bg * s["v"] + (1.0 if bg == 1 else 1 - bg) * g[b] ** 2
                cg = 1 - bg**t if kind == "adam" else 1.0
                size = lean[b] if kind == "sgd" else lean[b] / (np.sqrt(s["v"] / cg) + eg)
                norm = np.linalg.norm(size) / (np.linalg.norm(direction) + 1e-16)
                direction = size if t < start else direction * norm
            step[b] = direction
        step = step + (0 if l2 else decay * w)
        if momentum:
            velocity, step = _momentum(step, velocity, momentum, dampening, nesterov)
        w = w - lr * step
        path.append(w.reshape(shape).copy())
    return np.stack(path)


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
    nesterov=True, ema=False, override=0, axes=None, max_dim=4096,
):  # fmt: skip
    """Google's Shampoo of one parameter, without merging, roots by `eigh`."""
    w, k = w.copy(), w.ndim
    used = list(range(k)) if axes is None or k < 2 else axes
    skip = k == 0 or max(w.shape) > max_dim
    blocks = [] if skip else cut(w, block)
    factors = [{i: e_m * np.eye(w[b].shape[i]) for i in used} for b in blocks]
    roots = [[np.eye(d) if i in used else None for i, d in enumerate(w[b].shape)] for b in blocks]
    v, m, m_graft, path = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w), []
    p, weight, share = override or 2 * len(used), 1.0 if b2 == 1 else 1 - b2, 1 - b1 if ema else 1.0
    for t, g in enumerate(grads):
        for b, f, x in zip(blocks, factors, roots, strict=True):
            for i in used:
                if t % every == 0:
                    f[i] = b2 * f[i] + weight * gram(g[b], i)
                if t % period == 0:
                    ridge = e_m * max(np.linalg.eigvalsh(f[i])[-1], 1e-6)
                    values, vectors = np.linalg.eigh(f[i] + ridge * np.eye(len(f[i])))
                    x[i] = (vectors * np.maximum(values, ridge) ** (-1 / p)) @ vectors.T
        size, v = _google_graft(graft, g, v, b2, e_d)
        direction = size.copy()
        for b, x in zip(blocks, roots, strict=True):
            direction[b] = kron_multiply(g[b], x)
        if graft != "none" and not skip:
            direction = direction * np.linalg.norm(size) / (np.linalg.norm(direction) + 1e-25)
        coupled = 0 if decoupled else decay * w
        direction, size = direction + coupled, size + coupled
        m, m_graft = b1 * m + share * direction, b1 * m_graft + share * size
        newest, average = (direction, m) if t >= start else (size, m_graft)
        out = share * newest + b1 * average if nesterov else average
        w = w - lr * (out + (decay * w if decoupled else 0))
        path.append(w.copy())
    return np.stack(path)


def soap(w, grads, *, lr, b1, b2, eps, decay, period, b_factor=None, max_dim=10000, vectors=False, bias=True):
    """The official SOAP of one parameter, without merging."""
    w, k = w.copy(), w.ndim
    b_factor = b2 if b_factor is None else b_factor
    used = [i for i in range(k) if w.shape[i] <= max_dim] if k > 1 or vectors else []
    basis, factors = [None] * k, {i: (1 - b_factor) * gram(grads[0], i) for i in used}
    for i in used:
        basis[i] = np.linalg.eigh(factors[i])[1][:, ::-1]
    m, v, path = np.zeros_like(w), np.zeros_like(w), [w.copy()]
    for s, g in enumerate(grads[1:], 1):
        turn = [None if q is None else q.T for q in basis]
        m = b1 * m + (1 - b1) * g  # SOAP keeps it in the basis and turns it with every refresh: the same
        v = b2 * v + (1 - b2) * kron_multiply(g, turn) ** 2
        scale = lr * np.sqrt(1 - b2**s) / (1 - b1**s) if bias else lr
        w = (w - scale * kron_multiply(kron_multiply(m, turn) / (np.sqrt(v) + eps), basis)) * (1 - lr * decay)
        for i in used:
            factors[i] = b_factor * factors[i] + (1 - b_factor) * gram(g, i)
            if s % period == 0:
                order = np.argsort(np.diag(basis[i].T @ factors[i] @ basis[i]))[::-1]
                v = np.take(v, order, axis=i)
                basis[i] = np.linalg.qr(factors[i] @ basis[i][:, order])[0]
        path.append(w.copy())
    return np.stack(path)
