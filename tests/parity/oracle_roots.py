"""The references' inverse roots and eigenbases of one matrix in float64 numpy, written from their equations."""

import numpy as np


def largest_eigenvalue(a):
    """Google's power iteration, which stops at an absolute 1e-6."""
    v, s = np.random.RandomState(1729).uniform(-1, 1, len(a)), 0.0
    for _ in range(100):
        v = v / np.linalg.norm(v)
        y = a @ v
        new, v = v @ y, y
        if abs(new - s) <= 1e-6:
            return new
        s = new
    return s


def google_eigh(a, power, eps, relative=True):
    ridge = eps * max(largest_eigenvalue(a), 1e-6) if relative else eps
    damped = a + ridge * np.eye(len(a))
    values, u = np.linalg.eigh(damped)
    error = np.abs(u.T @ damped @ u - np.diag(values)).max()
    return (u * np.maximum(values, ridge) ** -float(power)) @ u.T, error


def google_newton(a, power, eps, relative=True):
    eye, p = np.eye(len(a)), round(1 / power)
    ridge = eps * max(largest_eigenvalue(a), 1e-25) if relative else eps
    if len(a) == 1:
        return (a + ridge) ** (-1 / p), 0.0
    for i in range(6):
        damped = a + ridge * 10.0**i * eye
        z = (1 + p) / (2 * np.linalg.norm(damped))
        m, x = z * damped, z ** (1 / p) * eye
        old, error, ratio, count = x, np.abs(m - eye).max(), 0.0, 0
        while count < 100 and error > 1e-6 and ratio < 1.2:
            n = (1 + 1 / p) * eye - m / p
            m = np.linalg.matrix_power(n, p) @ m
            old, x = x, x @ n
            new = np.abs(m - eye).max()
            ratio, error, count = new / error, new, count + 1
        root = x if ratio < 1.2 else old
        if error <= 0.05:
            break
    return root, error


def meta_eigh(a, power, eps):
    values, q = np.linalg.eigh(a + eps * np.eye(len(a)))
    return (q * perturbed(values, power, eps)) @ q.T


def meta_eigh_after(a, power, eps):
    values, q = np.linalg.eigh(a)
    return (q * perturbed(values, power, eps, after=True)) @ q.T


def pseudo_inverse(values, power, eps, rtol=0.0, atol=0.0):
    """Inverse powers of eigenvalues."""
    assert eps == 0
    cut = max((len(values) * np.finfo(float).eps if rtol is None else rtol) * max(values.max(), 0), atol)
    return np.array([0 if v <= cut else v ** -float(power) for v in values])


def perturbed(values, power, eps, after=False):
    """Inverse powers of eigenvalues: of A + eps I, or of A if `after`."""
    if after:
        return (values - min(values.min(), 0) + eps) ** -float(power)
    return (values - values.min() + eps if values.min() < eps else values) ** -float(power)


def meta_pseudo_inverse(a, power, eps, rtol=0.0, atol=0.0):
    values, q = np.linalg.eigh(a)
    return (q * pseudo_inverse(values, power, eps, rtol, atol)) @ q.T


def meta_newton(a, power, eps):
    p, eye = round(1 / power), np.eye(len(a))
    a = a + eps * eye
    z = (p + 1) / (2 * np.linalg.norm(a))
    x, m, count = z ** (1 / p) * eye, z * a, 0
    while np.abs(m - eye).max() > 1e-6 and count < 100:
        n = (1 + 1 / p) * eye - m / p
        x, m, count = x @ n, np.linalg.matrix_power(n, p) @ m, count + 1
    return x


def meta_higher_order(a, power, eps, order=3, relative=0.0):
    p, q, eye = power.denominator, power.numerator, np.eye(len(a))
    b = [1.0]
    for j in range(1, order):
        b.append(b[-1] * (1 + (j - 1) * p) / (j * p))
    a = a + max(relative * np.abs(a).sum(axis=1).max(), eps) * eye
    z = 1 / np.trace(a)
    n = (1 + 1 / p) * eye - z * a / p
    x, m = z ** (1 / p) * n, np.linalg.matrix_power(n, p) @ (z * a)
    error, count = np.abs(m - eye).max(), 1
    while error > 1e-8 and count < 100:
        n = sum(c * np.linalg.matrix_power(eye - m, j) for j, c in enumerate(b))
        x, m, count = x @ n, np.linalg.matrix_power(n, p) @ m, count + 1
        new = np.abs(m - eye).max()
        if new > 1.2 * error or (new == error and error < 1e-3):
            break
        error = new
    assert np.abs(a @ np.linalg.matrix_power(x, p) - eye).max() <= 0.1
    return np.linalg.matrix_power(x, q)


def _done(b, tolerance):
    return np.linalg.norm(b - np.diag(np.diag(b))) <= tolerance * np.linalg.norm(b)


def qr_algorithm(a, q, iterations, tolerance):
    b = q.T @ a @ q
    for _ in range(iterations):
        if _done(b, tolerance):
            break
        turn, r = np.linalg.qr(b)
        b, q = r @ turn, q @ turn
    return q[:, np.argsort(np.diag(b), kind="stable")]


def eigh_unless(a, q, tolerance):
    return q if _done(q.T @ a @ q, tolerance) else np.linalg.eigh(a)[1]


def polar(x, nuclear=False):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (s.sum() if nuclear else 1.0) * u @ vt


def newton_schulz(x, polynomials):
    x = x / np.linalg.norm(x)
    for a, b, c in polynomials:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x
