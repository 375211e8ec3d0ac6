"""Definitions: dense, float64, slow, obviously right. Nothing here uses the library, or JAX."""

import itertools
import math

import numpy as np


def gram(x, axis):
    """One tensor contracted with itself over all axes but one."""
    matrix = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return matrix @ matrix.T


def kron_multiply(x, matrices):
    """One tensor times `matrices[0] kron matrices[1] kron ..`, built in full; None is the identity."""
    full = np.ones((1, 1))
    for d, matrix in zip(x.shape, matrices, strict=True):
        full = np.kron(full, np.eye(d) if matrix is None else matrix)
    return (full @ x.ravel()).reshape(x.shape)


def power(a, exponent, ridge=0.0):
    """`(A + ridge I)^exponent` of a symmetric matrix by LAPACK."""
    values, vectors = np.linalg.eigh(a + ridge * np.eye(len(a)))
    return (vectors * values**exponent) @ vectors.T


def matrix_of_spectrum(values, rng):
    """A symmetric matrix with the given eigenvalues and random eigenvectors."""
    vectors = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (vectors * values) @ vectors.T


def cut(x, size, ragged=False):
    """The slices of all blocks of a tensor.

    An axis has the fewest pieces: equal ones if it divides, else all but the last of a multiple of 8, and `ragged` of
    the size itself.
    """

    def side(d):
        pieces = math.ceil(d / size)
        if ragged or d <= size:
            return size
        return d // pieces if d % pieces == 0 else min(size, 8 * math.ceil(math.ceil(d / pieces) / 8))

    edges = [[slice(i, min(i + side(d), d)) for i in range(0, d, side(d))] for d in x.shape]
    return list(itertools.product(*edges))


def shampoo_trajectory(
    w, gradients, *, lr, b1, b2, damping, block, period=1, kl=False, exponent=None, clip=np.inf, graft=None
):
    """Shampoo with momentum, relative damping and bias correction; all blocks refreshed at once.

    With a graft the step of a block is as long as Adam's ("entries"), or as that of Adam with one second moment for the
    whole block ("block").
    """
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    blocks = cut(w, block)
    factors = [[np.zeros((d, d)) for d in w[b].shape] for b in blocks]
    roots = [[np.eye(d) for d in w[b].shape] for b in blocks]
    path, k = [], w.ndim
    q = 1 / (2 * k) if exponent is None else exponent
    if kl:  # an axis without a root is whitened by the size of the first gradient
        units = [np.sqrt(np.mean(gradients[0][b] ** 2)) for b in blocks]
        roots = [[matrix / np.sqrt(u) for matrix in root] for root, u in zip(roots, units, strict=True)]
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = np.zeros_like(w)
        for b, factor, root in zip(blocks, factors, roots, strict=True):
            seen = []
            for i in range(k):
                others = [None if j == i else root[j] for j in range(k)]
                n = g[b].size / g[b].shape[i] if kl else 1
                seen.append(gram(kron_multiply(g[b], others) if kl else g[b], i) / n)
            for i in range(k):
                factor[i] = b2 * factor[i] + (1 - b2) * seen[i]
            if (t - 1) % period == 0:
                for i in range(k):
                    corrected = factor[i] / (1 - b2**t)
                    root[i] = power(corrected, -q, damping * np.linalg.eigvalsh(corrected)[-1])
            direction = kron_multiply(m[b] / (1 - b1**t), root)
            if graft is not None:
                moment = v[b] if graft == "entries" else np.mean(v[b])
                length = np.linalg.norm(m[b] / (1 - b1**t) / np.sqrt(moment / (1 - b2**t)))
                direction *= length / np.linalg.norm(direction)
            step[b] = direction * min(1, clip * np.sqrt(direction.size) / np.linalg.norm(direction))
        w = w - lr * step
        path.append(w.copy())
    return np.stack(path)


def rotated_moment(v, old, new):
    """The variances of independent entries, of variances v in old bases, in new ones: by their full covariance."""
    full = np.ones((1, 1))
    for a, b in zip(old, new, strict=True):
        full = np.kron(full, b.T @ a)
    return np.diag(full @ np.diag(v.ravel()) @ full.T).reshape(v.shape)


def soap_trajectory(w, gradients, *, lr, b1, b2, eps, period, start, rotated=False):
    """Adam in the eigenbasis by `eigh` of the newest statistics from step `start` on; bias correction before eps."""
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    factors = [np.zeros((d, d)) for d in w.shape]
    bases, path = [np.eye(d) for d in w.shape], []
    for t, g in enumerate(gradients, 1):
        factors = [b2 * f + (1 - b2) * gram(g, i) for i, f in enumerate(factors)]
        if t >= start and (t - start) % period == 0:
            old, bases = bases, [np.linalg.eigh(f)[1] for f in factors]
            v = rotated_moment(v, old, bases) if rotated else v
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * kron_multiply(g, [q.T for q in bases]) ** 2
        direction = kron_multiply(m / (1 - b1**t), [q.T for q in bases]) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * kron_multiply(direction, bases)
        path.append(w.copy())
    return np.stack(path)


def kl_soap_trajectory(w, gradients, *, lr, b1, b2, eps, damping, period, start):
    """As `soap_trajectory` with moments that turn, on factors that see the gradient whitened by the others."""
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    factors = [np.zeros((d, d)) for d in w.shape]
    bases, path = [np.eye(d) for d in w.shape], []
    white = [np.eye(d) / np.sqrt(np.sqrt(np.mean(gradients[0] ** 2))) for d in w.shape]
    for t, g in enumerate(gradients, 1):
        for i, d in enumerate(w.shape):
            seen = kron_multiply(g, [None if j == i else x for j, x in enumerate(white)])
            factors[i] = b2 * factors[i] + (1 - b2) * gram(seen, i) * d / w.size
        corrected = [f / (1 - b2**t) for f in factors]
        if t >= start and (t - start) % period == 0:
            old, bases = bases, [np.linalg.eigh(f)[1] for f in corrected]
            v = rotated_moment(v, old, bases)
        values = [np.diag(q.T @ f @ q) for q, f in zip(bases, corrected, strict=True)]
        white = [(q / np.sqrt(x + damping * x.max())) @ q.T for q, x in zip(bases, values, strict=True)]
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * kron_multiply(g, [q.T for q in bases]) ** 2
        direction = kron_multiply(m / (1 - b1**t), [q.T for q in bases]) / (np.sqrt(v / (1 - b2**t)) + eps)
        w = w - lr * kron_multiply(direction, bases)
        path.append(w.copy())
    return np.stack(path)


def practical_kl_shampoo_trajectory(w, gradients, *, lr, b1, b2, damping, period, clip):
    """KL-Shampoo with eigenvalues averaged in every step in bases of before, and bases by one QR decomposition."""
    w, m = w.copy(), np.zeros_like(w)
    factors = [np.zeros((d, d)) for d in w.shape]
    bases, values, path = None, [None for _ in w.shape], []
    first, counted = [np.sqrt(np.mean(g**2)) for g in gradients[:2]], 0

    def damped(i, unit):
        return np.full(w.shape[i], unit) if values[i] is None else values[i] + damping * values[i].max()

    for t, g in enumerate(gradients, 1):
        known = [np.eye(d) for d in w.shape] if bases is None else bases
        white = [(q / np.sqrt(damped(i, first[0]))) @ q.T for i, q in enumerate(known)]
        for i, d in enumerate(w.shape):
            seen = kron_multiply(g, [None if j == i else x for j, x in enumerate(white)])
            factors[i] = b2 * factors[i] + (1 - b2) * gram(seen, i) * d / w.size
        if bases is not None:
            counted += 1
            rate = (1 - b2) / (1 - b2**counted)
            old = [damped(i, first[1]) for i in range(w.ndim)]
            fresh = []
            for i, d in enumerate(w.shape):
                others = [
                    q.T if j == i else (q / np.sqrt(x)).T for j, (q, x) in enumerate(zip(bases, old, strict=True))
                ]
                fresh.append(np.diag(gram(kron_multiply(g, others), i)) * d / w.size)
            values = [y if x is None else x + rate * (y - x) for x, y in zip(values, fresh, strict=True)]
            m = b1 * m + (1 - b1) * g
            roots = [(q / np.sqrt(damped(i, 0))) @ q.T for i, q in enumerate(bases)]
            direction = kron_multiply(m / (1 - b1**counted), roots)
            w = w - lr * direction * min(1, clip * np.sqrt(direction.size) / np.linalg.norm(direction))
        if bases is None:
            bases = [np.linalg.eigh(f)[1][:, ::-1] for f in factors]
        elif (t - 1) % period == 0:
            for i, (f, q) in enumerate(zip(factors, bases, strict=True)):
                order = np.argsort(-np.diag(q.T @ f @ q))
                bases[i] = np.linalg.qr(f @ q[:, order])[0]
                values[i] = values[i][order]
        path.append(w.copy())
    return np.stack(path)


def qr_step(a, basis):
    """One step of orthogonal iteration, columns by falling quotient, each put back where it was."""
    order = np.argsort(-np.diag(basis.T @ a @ basis))
    new = np.empty_like(basis)
    new[:, order] = np.linalg.qr(a @ basis[:, order])[0]
    return new


def soap_by_default_trajectory(w, gradients, *, lr, b1, b2, least, due, damping=None, delay=1, graft=False):
    """SOAP and KL-SOAP by their defaults: no update in the first step, and a refresh behind each (before, for delay 0).

    `due` gives the axes that are refreshed in a step. With a damping the statistics are those of KL-Shampoo. With a
    graft each step is as long as Adam's, and momentum begins with the first step.
    """
    w, m, v, path = w.copy(), np.zeros_like(w), np.zeros_like(w), []
    adams, skipped = np.zeros_like(w), 0 if graft else 1
    factors, bases = [np.zeros((d, d)) for d in w.shape], [np.eye(d) for d in w.shape]
    white = [np.eye(d) for d in w.shape]
    if damping is not None:
        white = [x / np.sqrt(np.sqrt(np.mean(gradients[0] ** 2))) for x in white]
    for t, g in enumerate(gradients, 1):
        for i, d in enumerate(w.shape):
            seen = kron_multiply(g, [None if j == i else x for j, x in enumerate(white)])
            factors[i] = b2 * factors[i] + (1 - b2) * gram(seen, i) * (1 if damping is None else d / w.size)
        new = list(bases)
        for i in due(t):
            new[i] = np.linalg.eigh(factors[i])[1] if t == 1 else qr_step(factors[i], bases[i])
        if not delay:
            v, bases = rotated_moment(v, bases, new), new
        adams = b2 * adams + (1 - b2) * g**2
        if t > skipped:
            m = b1 * m + (1 - b1) * g
        if t > 1:
            v = b2 * v + (1 - b2) * kron_multiply(g, [q.T for q in bases]) ** 2
            moment = v / (1 - b2 ** (t - 1))
            denominator = np.sqrt(moment) + least * np.sqrt(np.mean(moment))
            momentum = m / (1 - b1 ** (t - skipped))
            direction = kron_multiply(kron_multiply(momentum, [q.T for q in bases]) / denominator, bases)
            if graft:
                length = np.linalg.norm(momentum / np.sqrt(adams / (1 - b2**t)))
                direction *= length / np.linalg.norm(direction)
            w = w - lr * direction
        path.append(w.copy())
        if delay:
            v, bases = rotated_moment(v, bases, new), new
        if damping is not None:
            corrected = [f / (1 - b2**t) for f in factors]
            values = [np.diag(q.T @ f @ q) for q, f in zip(bases, corrected, strict=True)]
            white = [(q / np.sqrt(x + damping * x.max())) @ q.T for q, x in zip(bases, values, strict=True)]
    return np.stack(path)
