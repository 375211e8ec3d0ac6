"""What float32 emulated on tensor cores costs in accuracy: each algorithm by its definition, in float32 here."""

import functools
import importlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond.linalg import composite_root
from tests import reference


def tf32(x):
    """To the nearest number of 10 bits."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jax.lax.bitcast_convert_type((bits + 0x1000) & jnp.uint32(0xFFFFE000), jnp.float32)


def bfloat16(x):
    """To the nearest number of 7 bits."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def split(x, rounded, parts):
    """Numbers that add up to x."""
    out = []
    for _ in range(parts):
        out.append(rounded(x))
        x = x - out[-1]
    return out


def emulated(rounded, parts, terms):
    """Products of the parts, exact in float32, summed from the smallest; of the pairs the `terms` largest."""

    def product(a, b):
        pairs = sorted(np.ndindex(parts, parts), key=sum)[:terms]
        left, right = split(a, rounded, parts), split(b, rounded, parts)
        one = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return functools.reduce(jnp.add, [one(left[i], right[j]) for i, j in reversed(pairs)])

    return product


# Each with what the docstring of `precond.precision` says of it: the error of a product, and of a root.
ALGORITHMS = {
    "float32": (functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST), 2.2, 1.6e-5),
    "BF16_BF16_F32_X9": (emulated(bfloat16, 3, 9), 1.1, 1.0e-5),
    "BF16_BF16_F32_X6": (emulated(bfloat16, 3, 6), 1.1, 1.0e-5),
    "TF32_TF32_F32_X3": (emulated(tf32, 2, 3), 2.4, 2.1e-5),
    "BF16_BF16_F32_X3": (emulated(bfloat16, 2, 3), 17, 6.0e-4),
    "TF32_TF32_F32": (emulated(tf32, 1, 1), 1000, 4.3e-2),
}


def product_error(product):
    """In units of rounding, relative to the product of the absolute values."""
    a, b = np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    exact, size = a.astype(np.float64) @ b, np.abs(a) @ np.abs(b)
    return np.max(np.abs(np.asarray(product(a, b)) - exact) / size) / np.finfo(np.float32).eps


def root_error(monkeypatch, product, condition):
    """Of `A^(-1/4)` by composite polynomials, relative, in the spectral norm."""
    monkeypatch.setattr(importlib.import_module("precond.linalg.composite_root"), "product", product)
    q = np.linalg.qr(np.random.default_rng(1).standard_normal((128, 128)))[0]
    a = np.float32((q * np.geomspace(1 / condition, 1, 128)) @ q.T)
    a = (a + a.T) / 2
    ridge = functools.partial(jnp.full_like, fill_value=1 / condition)
    root = jax.jit(lambda x: composite_root(x, Fraction(1, 4), ridge, least=1 / condition)[0])(a[None])[0]
    exact = reference.power(a.astype(np.float64), -0.25, 1 / condition)
    return np.linalg.norm(np.nan_to_num(root) - exact, 2) / np.linalg.norm(exact, 2)


@pytest.mark.parametrize(("product", "units", "error"), ALGORITHMS.values(), ids=ALGORITHMS)
def test_an_algorithm_has_the_documented_error(product, units, error, monkeypatch):
    assert units / 1.5 < product_error(product) < 1.5 * units
    assert error / 2 < root_error(monkeypatch, product, 1e4) < 2 * error


def test_statistics_are_refused_in_what_is_worse_than_float32():
    for name, (_, units, _) in ALGORITHMS.items():
        if name != "float32" and units > 3:
            with pytest.raises(ValueError, match=name):
                precond.precision(statistics=jax.lax.DotAlgorithmPreset[name])
