"""The inverse root as a part: scale, zero matrices, powers, damping, application."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precond import absolute, composite, eigh, inverse_root, newton, qr, relative
from precond.roots import Axis, by_platform, trace_damping
from tests import reference

METHODS = [eigh(), newton(), composite(), by_platform(composite(), cpu=eigh())]


def matrix(n=8, condition=1e3, seed=0):
    values = np.geomspace(1 / condition, 1, n)
    return reference.matrix_of_spectrum(values, np.random.default_rng(seed))


@functools.cache
def compiled(root, order):
    """From a stack of factors to its roots: one program for all the factors that a root is given."""

    def run(factor):
        before = root.init(factor, (factor,)).derived[0]
        return root.refresh(factor, before, root.power(Axis(0, order, order)), True).matrix

    return jax.jit(run)


def root_of(root, factor, order=2):
    return np.asarray(compiled(root, order)(np.asarray(factor)[None])[0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_power_is_one_over_twice_the_order(method, order):
    a = matrix()
    expected = reference.power(a, -1 / (2 * order), 1e-3)
    root = inverse_root(method=method, damping=relative(1e-3))
    np.testing.assert_allclose(root_of(root, a, order), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "power", [1, 0.5, 1 / 3, Fraction(2, 3), lambda order: 1 / order], ids=["1", "1/2", "1/3", "2/3", "function"]
)
def test_any_power_may_be_asked_for(method, power):
    a, q = matrix(condition=30), power(2) if callable(power) else power
    root = inverse_root(power=power, method=method, damping=absolute(0.0))
    # Without damping the composite is that for an interval from 1e-12, at some expense of accuracy.
    np.testing.assert_allclose(root_of(root, a), reference.power(a, -float(q)), rtol=0, atol=2e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("damping", "ridge"),
    [
        (absolute(0.02), 0.02),
        (relative(0.02), 0.02 * 3),
        (relative(0.02, floor=50.0), 0.02 * 50),
        (trace_damping(0.02), 0.02 * 4.5 / 4),
    ],
)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_damping_adds_what_it_says(method, damping, ridge):
    a = reference.matrix_of_spectrum(np.array([0.2, 0.3, 1.0, 3.0]), np.random.default_rng(0))
    root = inverse_root(power=0.5, method=method, damping=damping)
    np.testing.assert_allclose(root_of(root, a), reference.power(a, -0.5, ridge), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_root_of_a_multiple_is_the_multiple_of_the_root(method):
    a, root = matrix().astype(np.float32), inverse_root(method=method)
    for scale in (1e-20, 1e-8, 1e8, 1e20):
        ours = root_of(root, a * np.float32(scale)) * scale**0.25
        np.testing.assert_allclose(ours, root_of(root, a), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_zero_rank_one_and_one_by_one_factors_have_finite_roots(method):
    root = inverse_root(method=method)
    np.testing.assert_array_equal(root_of(root, np.zeros((3, 3), np.float32)), np.eye(3))
    assert np.isfinite(root_of(root, np.ones((5, 5), np.float32))).all()
    expected = np.float32(16 * (1 + 1e-6)) ** -0.25
    np.testing.assert_allclose(root_of(root, np.full((1, 1), 16, np.float32)), [[expected]], rtol=1e-6)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 9))
@pytest.mark.usefixtures("x64")
def test_application_is_the_kronecker_product_of_the_roots(shape, seed):
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((2, *shape))
    root = inverse_root()
    state = root.init(jnp.asarray(g), tuple(jnp.zeros((2, d, d)) for d in shape))
    np.testing.assert_array_equal(root.apply(jnp.asarray(g), jnp.asarray(g), state)[0], g)  # the identity at first
    matrices = [rng.standard_normal((2, d, d)) for d in shape]
    derived = tuple(x._replace(matrix=jnp.asarray(m)) for x, m in zip(state.derived, matrices, strict=True))
    state = state._replace(derived=derived)
    out, _ = root.apply(jnp.asarray(g), jnp.zeros_like(g), state)
    for n in range(2):
        np.testing.assert_allclose(out[n], reference.kron_multiply(g[n], [m[n] for m in matrices]), atol=1e-11)


def test_every_axis_may_have_its_own_power():
    root = inverse_root(power={2: {0: 0.5, 1: 1}, 3: 0.25})
    assert [root.power(Axis(i, 2, 2)) for i in (0, 1)] == [0.5, 1]
    assert root.power(Axis(2, 3, 1)) == 0.25
    assert root.power(Axis(0, 4, 2)) == Fraction(1, 8)  # what is not named: by all axes, with factors or not
    assert inverse_root().power(Axis(0, 4, 2)) == Fraction(1, 4)


def test_what_cannot_work_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"power\[2\]\[1\]=0: must lie between"):
        inverse_root(power={2: {1: 0}})
    with pytest.raises(ValueError, match=r"method=qr\(\) computes no inverse roots: use precond.eigh"):
        inverse_root(method=qr())
    with pytest.raises(ValueError, match="power=0: must lie between"):
        inverse_root(power=0)
    with pytest.raises(TypeError, match="power is an array"):
        inverse_root(power=jnp.asarray(0.5))
    for damping in (relative, absolute, trace_damping):
        with pytest.raises(ValueError, match="eps=-1: must be at least 0"):
            damping(-1)
    with pytest.raises(ValueError, match="iterations=0"):
        newton(iterations=0)
