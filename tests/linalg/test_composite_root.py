"""Composite polynomials: the root, its error beside that of others, the products it takes, and what it lowers to."""

from fractions import Fraction
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond.linalg import composite_root, coupled_newton, eigh_root
from tests import reference

pytestmark = pytest.mark.platforms

POWERS = [Fraction(1, p) for p in (1, 2, 3, 4, 6, 8)] + [Fraction(2, 3), Fraction(3, 4)]
SEEDS = range(48)  # the ratio of two medians of 5 or 9 matrices scatters between 0.7 and 1.7 at n = 32


def geometric(n, condition, seed=0):
    return reference.matrix_of_spectrum(np.geomspace(1 / condition, 1, n), np.random.default_rng(seed))


@cache
def compiled(power, least):
    """From a stack of matrices and a ridge to the roots."""
    return jax.jit(partial(roots_of, power=power, least=least))


def roots_of(stack, ridge, power, least):
    return composite_root(stack, power, lambda top: jnp.full_like(top, ridge), least=least)[0]


def root_of(a, power, ridge, least=None):
    """Of one matrix whose largest eigenvalue is about 1."""
    return np.asarray(compiled(power, ridge if least is None else least)(jnp.asarray(a)[None], ridge)[0])


def error(x, expected):
    """Relative, in the spectral norm."""
    return np.linalg.norm(np.asarray(x, np.float64) - expected, 2) / np.linalg.norm(expected, 2)


def primitives(jaxpr, times=1):
    """All equations of a program, those inside of others too, and how often each is run."""
    for equation in jaxpr.eqns:
        yield equation, times
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner, times * turns)


def products(function, n, *, written=False):
    """Of n by n matrices with n by n matrices, but for those that look for the largest eigenvalue.

    They are counted as often as they are run, or as they are `written`, and so compiled.
    """
    equations = primitives(jax.make_jaxpr(function)(jnp.zeros((2, n, n))).jaxpr)
    square, highest = (2, n, n), (jax.lax.Precision.HIGHEST,) * 2
    found = [
        (e.params["precision"] == highest, 1 if written else times)
        for e, times in equations
        if e.primitive.name == "dot_general" and all(v.aval.shape == square for v in (*e.invars, *e.outvars))
    ]
    assert sum(not exact for exact, _ in found) == 1  # the body of a loop of squarings
    return sum(times for exact, times in found if exact) - 1  # and its quotient


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("power", POWERS, ids=str)
@pytest.mark.parametrize("condition", [pytest.param(1e1, marks=pytest.mark.slow), 1e2, 1e4])
def test_in_float64_it_is_the_root_of_the_damped_matrix(power, condition):
    a = geometric(12, condition)
    expected = reference.power(a, -float(power), 1 / condition)
    # Operation by operation: a compiler fuses multiplications with additions on the one side of the diagonal alone.
    found = np.asarray(roots_of(jnp.asarray(a)[None], 1 / condition, power, 1 / condition)[0])
    assert error(found, expected) < 2e-16 * condition + 1e-14
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("power", POWERS, ids=str)
def test_when_the_damping_is_not_known_rounding_is_multiplied_but_the_root_is_found(power):
    a = geometric(12, 1e3)
    assert error(root_of(a, power, 1e-5, least=0.0), reference.power(a, -float(power), 1e-5)) < 1e-7


@pytest.mark.optimized
@pytest.mark.parametrize("power", [Fraction(1, 2), Fraction(1, 4)], ids=str)
@pytest.mark.parametrize("condition", [1e2, *(pytest.param(c, marks=pytest.mark.slow) for c in (1e4, 1e6)), 1e8])
@pytest.mark.parametrize("n", [32, *(pytest.param(n, marks=pytest.mark.slow) for n in (64, 128))])
def test_in_float32_it_is_no_worse_than_newton_and_eigh(n, condition, power):
    matrices = np.stack([geometric(n, condition, seed).astype(np.float32) for seed in SEEDS])
    expected = [reference.power((a + a.T).astype(np.float64) / 2, -float(power), 1 / condition) for a in matrices]
    stack, ridge = jnp.asarray(matrices), 1 / condition
    ours = composite_root(stack, power, lambda top: jnp.full_like(top, ridge), least=ridge)[0]
    newton = coupled_newton(stack, power, jnp.full(len(SEEDS), ridge))
    eigh = eigh_root(stack, float(power), lambda top: jnp.full_like(top, ridge))[0]

    def median(roots):
        return np.median([error(x, e) for x, e in zip(roots, expected, strict=True)])

    assert median(ours) < 1.1 * median(newton)
    assert median(ours) < median(eigh)


@pytest.mark.parametrize(
    ("power", "condition", "most"),
    [
        (Fraction(1, 4), 1e2, 14),
        (Fraction(1, 4), 1e4, 20),
        (Fraction(1, 4), 1e6, 32),
        (Fraction(1, 4), 1e8, 38),
        (Fraction(1, 2), 1e2, 12),
        (Fraction(1, 2), 1e4, 19),
        (Fraction(1, 2), 1e6, 32),
    ],
    ids=str,
)
def test_it_takes_few_products(power, condition, most):
    assert products(partial(root_with, power=power, ridge=1 / condition), 64) <= most


def root_with(a, power, ridge):
    return composite_root(a, power, lambda top: ridge * top, least=ridge)[0]


POWERS = (Fraction(1, 3), Fraction(1, 4), Fraction(1, 2))


def test_newton_takes_80_products_for_what_takes_composites_28():
    a = jnp.asarray(geometric(64, 1e6), jnp.float32)[None]
    ridge = jnp.asarray([1e-6], jnp.float32)
    last, same = coupled_newton(a, Fraction(1, 4), ridge, iterations=32), 32
    while np.array_equal(coupled_newton(a, Fraction(1, 4), ridge, iterations=same - 1), last):
        same -= 1
    each = 4  # two for the fourth power, one each for M and X
    assert 72 <= each * same <= 96
    found = {p: products(partial(root_with, power=p, ridge=1e-6), 64) for p in POWERS}
    assert found == {Fraction(1, 3): 35, Fraction(1, 4): 28, Fraction(1, 2): 26}  # as docs/costs.md says


def test_the_compiler_meets_nine_of_them():
    root = partial(root_with, power=Fraction(1, 4), ridge=1e-6)
    assert products(root, 64, written=True) == 9  # 4 in a loop of steps of degree 1, 5 in one of degree 2


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("power", [Fraction(1, 2), Fraction(1, 3), Fraction(3, 4)], ids=str)
def test_nothing_is_decomposed_on_any_platform(power, platform):
    traced = jax.jit(partial(root_with, power=power, ridge=1e-6)).trace(jnp.zeros((3, 16, 16)))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    for word in ("custom_call", "stablehlo.if", "cholesky", "triangular_solve"):
        assert word not in program
    assert "dot_general" in program


SPECTRA = {
    "clustered": np.repeat([1e-3, 1e-3 * (1 + 1e-6), 0.5, 1.0], 6),
    "rank 1": np.asarray([0.0] * 23 + [1.0]),
    "half of full rank": np.asarray([0.0] * 12 + [1.0] * 12),
    "identity": np.ones(24),
    "one small": np.asarray([1e-4] + [1.0] * 23),
    "linear": np.linspace(0, 1, 24),
    "graded": np.geomspace(1e-12, 1, 24),
}


@pytest.mark.parametrize("power", [Fraction(1, 3), Fraction(1, 4)], ids=str)
@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("x64")
def test_spectra_of_all_kinds(values, power, dtype):
    # Rounded as it is for us, but exact from there on.
    a = reference.matrix_of_spectrum(values, np.random.default_rng(0)).astype(dtype)
    expected = reference.power(a.astype(np.float64), -float(power), 1e-4 * np.linalg.eigvalsh(a.astype(np.float64))[-1])
    assert error(root_of(a, power, 1e-4), expected) < 2e4 * np.finfo(dtype).eps  # twice the condition number


@pytest.mark.parametrize("power", [Fraction(1, 2), Fraction(1, 4)], ids=str)
def test_matrices_that_are_diagonal_or_almost(power):
    values = np.geomspace(1e-3, 1, 16).astype(np.float32)
    expected = (values.astype(np.float64) + 1e-4) ** -float(power)
    np.testing.assert_allclose(root_of(np.diag(values), power, 1e-4), np.diag(expected), rtol=1e-4)
    noise = 1e-5 * np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    almost = np.diag(values) + noise + noise.T
    assert error(root_of(almost, power, 1e-4), reference.power(almost.astype(np.float64), -float(power), 1e-4)) < 1e-3


def test_padding_with_zeros_changes_nothing_but_rounding():
    a = geometric(20, 1e3).astype(np.float32)
    padded = np.zeros((32, 32), np.float32)
    padded[:20, :20] = a
    found = root_of(padded, Fraction(1, 4), 1e-4)
    np.testing.assert_allclose(found[:20, :20], root_of(a, Fraction(1, 4), 1e-4), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[20:, 20:], (1e-4) ** -0.25 * np.eye(12), rtol=1e-4)
    assert np.abs(found[:20, 20:]).max() == 0


def test_a_zero_matrix_without_a_ridge_stays_finite_and_a_stack_is_its_matrices():
    stack = jnp.asarray(np.stack([np.zeros((8, 8)), geometric(8, 1e2), np.eye(8)]), jnp.float32)
    root = jax.jit(lambda a: composite_root(a, Fraction(1, 4), lambda top: 1e-3 * top, least=1e-3))
    roots, largest, damping = root(stack)
    assert np.isfinite(roots).all()
    np.testing.assert_allclose(largest, [0, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(damping, 1e-3 * largest)
    for i in range(3):
        np.testing.assert_allclose(roots[i : i + 1], root(stack[i : i + 1])[0], rtol=1e-5, atol=1e-6)
