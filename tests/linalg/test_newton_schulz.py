"""Newton-Schulz iterations against what they do to singular values, by NumPy's decomposition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precond import orthogonal
from precond.linalg import block_newton_schulz, gram_is_cheaper, gram_newton_schulz, isometry_error, polar_factor
from precond.orthogonal import (
    almost_orthogonal,
    cubic,
    deepseek,
    dion,
    jordan,
    polar_express,
    schatten,
    spectral,
)
from precond.planning.count import Key, count_program

SETS = {
    "jordan": jordan(),
    "dion": dion(),
    "polar_express": polar_express(),
    "polar_express_8": polar_express(8),
    "deepseek": deepseek(),
    "cubic": cubic(),
}
FEW = ("jordan", "dion", "polar_express_8")  # of each length one; other sets are other numbers
SHAPES = [(6, 6), (6, 15), (15, 6), (1, 7), (7, 1), (1, 1)]
FORMS = {
    "block": jax.jit(block_newton_schulz, static_argnums=(1, 2), static_argnames="rescale"),
    "gram": jax.jit(gram_newton_schulz, static_argnums=(1, 2), static_argnames="rescale"),
}


def of_spectrum(shape, values, seed=0):
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    k = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((d, k)))[0] for d in shape)
    return u @ np.diag(values) @ v.T


def polynomials_of(s, polynomials):
    for a, b, c in polynomials:
        s = a * s + b * s**3 + c * s**5
    return s


def definition(x, polynomials):
    """U p(S / |S|) V^T."""
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return u @ np.diag(polynomials_of(s / np.linalg.norm(s), polynomials)) @ vt


def stack(shape, condition=30.0, count=3):
    return np.stack([of_spectrum(shape, np.geomspace(1, 1 / condition, min(shape)), seed) for seed in range(count)])


def error(found, expected):
    return np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "polynomials", [pytest.param(p, id=n, marks=[pytest.mark.slow] * (n not in FEW)) for n, p in SETS.items()]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_are_taken_through_the_polynomials(shape, polynomials, form):
    x = 1e5 * stack(shape)
    found = form(jnp.asarray(x), polynomials)
    assert error(found, np.stack([definition(a, polynomials) for a in x])) < 1e-12


def rescaled(x, how):
    """The matrix that the polynomials begin with, by its singular values or by its rows."""
    s = np.linalg.svd(x)[1]
    if how == "almost_orthogonal":
        short = x if x.shape[0] <= x.shape[1] else x.T
        short = short / np.sqrt(np.abs(short @ short.T).sum(1))[:, None]
        return short if x.shape[0] <= x.shape[1] else short.T
    return x / (s[0] if how == "spectral" else np.linalg.norm(s, 4))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("how", ["schatten", "spectral", "almost_orthogonal"])
@pytest.mark.parametrize("shape", [(15, 6), *[pytest.param(s, marks=pytest.mark.slow) for s in SHAPES]], ids=str)
def test_polynomials_begin_with_the_rescaled_matrix(shape, how, form):
    x = 1e5 * stack(shape)
    found = form(jnp.asarray(x).at[1].set(0), jordan(), rescale=getattr(orthogonal, how)().factor)
    expected = []
    for a in x:
        u, s, vt = np.linalg.svd(rescaled(a, how), full_matrices=False)
        assert s[0] < 1 + 1e-12
        expected.append(u @ np.diag(polynomials_of(s, jordan())) @ vt)
    assert error(found[::2], np.stack(expected)[::2]) < 1e-12
    assert not found[1].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_zeros_stay_zeros_and_every_scale_gives_the_same(form):
    x = jnp.asarray(stack((4, 6)))
    expected = form(x, dion())
    for scale in (2.0**-900, 2.0**-60, 2.0**60, 2.0**900):
        np.testing.assert_array_equal(form(scale * x, dion()), expected)
    assert not form(x.at[1].set(0), dion())[1].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.4)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e6])
@pytest.mark.parametrize("polynomials", [jordan(), dion(), polar_express(), cubic()], ids=len)
def test_the_gram_form_is_about_as_accurate_as_the_block_one(polynomials, condition, dtype, bound):
    x = stack((64, 192), condition, count=1)
    expected = definition(x[0], polynomials)
    block, gram = (error(form(jnp.asarray(x, jnp.float32), polynomials, dtype)[0], expected) for form in FORMS.values())
    assert block < bound
    assert gram < min(bound, 4 * block)


@pytest.mark.parametrize(
    "rescale",
    [None, schatten(), *(pytest.param(f(), marks=pytest.mark.slow) for f in (spectral, almost_orthogonal))],
    ids=str,
)
@pytest.mark.parametrize("noise", [0, 1e-3, 0.1])
@pytest.mark.parametrize("polynomials", SETS.values(), ids=SETS)
@pytest.mark.parametrize("shape", [(8, 48), pytest.param((4, 4), marks=pytest.mark.slow)], ids=str)
def test_in_bfloat16_no_matrix_of_nearly_rank_one_explodes_or_turns_round(shape, polynomials, noise, rescale):
    rng, factor = np.random.default_rng(0), rescale and rescale.factor
    u, v = rng.standard_normal((300, shape[0], 1)), rng.standard_normal((300, 1, shape[1]))
    x = u * v + noise * rng.standard_normal((300, *shape))
    for form in FORMS.values():
        wide = form(jnp.asarray(x, jnp.float32), polynomials, jnp.bfloat16, rescale=factor)
        found = np.asarray(wide, np.float64)
        assert np.isfinite(found).all()
        assert np.linalg.norm(found, 2, axis=(1, 2)).max() < 1.4
        assert (np.sum(found * x, axis=(1, 2)) > 0.4 * np.linalg.norm(x, axis=(1, 2))).all()


def products(form, shape, polynomials, dtype=None):
    """Operations of matrix products, as traced."""
    program = jax.make_jaxpr(lambda x: form(x, polynomials, dtype))(jnp.zeros((1, *shape)))
    return count_program(program, {}, "cpu")[Key("", "products")]


@pytest.mark.parametrize(
    ("polynomials", "dtype", "groups"),
    [
        (jordan(), jnp.bfloat16, [2, 2, 1]),
        (jordan(), jnp.float32, [3, 2]),
        (polar_express(), jnp.bfloat16, [1, 1, 1, 2]),
    ],
    ids=["jordan bfloat16", "jordan float32", "polar_express bfloat16"],
)
def test_few_steps_share_a_gram_matrix(polynomials, dtype, groups):
    m, n = 8, 32
    expected = sum(4 * m**2 * n + (8 * steps - 6) * m**3 for steps in groups)
    assert products(gram_newton_schulz, (m, n), polynomials, dtype) == expected


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (8, 13), (8, 12), (8, 8)], ids=str)
def test_operations_are_those_that_are_said_and_the_form_is_chosen_by_them(shape):
    m, n = sorted(shape)
    block, gram = (products(form, shape, jordan()) for form in FORMS.values())
    assert block == 5 * (4 * m**2 * n + 2 * m**3)
    assert gram == 8 * m**2 * n + (18 + 10) * m**3
    assert gram_is_cheaper(shape, jnp.float32) == (gram < block)
    short, long = (products(form, shape, cubic()) for form in FORMS.values())
    assert gram_is_cheaper(shape, jnp.float32) == (long < short)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar_is_the_nearest_isometry(shape):
    x = stack(shape, 1e3)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    assert error(polar_factor(jnp.asarray(x)), u @ vt) < 1e-12
    converged = block_newton_schulz(jnp.asarray(x), polar_express(30))
    assert error(converged, u @ vt) < 1e-12


@pytest.mark.usefixtures("x64")
def test_polar_of_a_matrix_of_low_rank_has_its_rank():
    x = of_spectrum((6, 9), [3.0, 2.0, 1e-3, 0.0, 0.0, 0.0])
    found = polar_factor(jnp.asarray(np.stack([x, np.zeros((6, 9))])))
    np.testing.assert_allclose(np.linalg.svd(found[0])[1], [1, 1, 1, 0, 0, 0], atol=1e-12)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(found[0], u[:, :3] @ vt[:3], atol=1e-12)
    assert not found[1].any()


@pytest.mark.parametrize("shape", [(64, 200), (200, 64), (64, 64)], ids=str)
def test_the_error_is_that_of_the_singular_values(shape):
    x = block_newton_schulz(jnp.asarray(stack(shape, 100.0, count=8), jnp.float32), jordan())
    s = np.linalg.svd(np.asarray(x, np.float64))[1]
    exact = np.sqrt(np.mean((s**2 - 1) ** 2, axis=1))
    assert (exact > 0.2).all()
    np.testing.assert_allclose(isometry_error(x), exact, rtol=0.2)
    assert isometry_error(polar_factor(x)).max() < 1e-5
    assert isometry_error(jnp.zeros_like(x)).max() == 0


RESCALINGS = {
    "as they are": None,
    "schatten": orthogonal.schatten().factor,
    "spectral": orthogonal.spectral().factor,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rescale", RESCALINGS.values(), ids=RESCALINGS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4)], ids=str)
def test_complex_matrices_go_to_their_polar_factors(shape, form, rescale):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape))
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    # Not even a dtype of real numbers for the products loses the imaginary part.
    found = form(jnp.asarray(x), polar_express(30), jnp.float64, rescale=rescale)
    np.testing.assert_allclose(found, u @ vh, atol=1e-10)
    assert isometry_error(found).dtype == jnp.float64
    assert isometry_error(found).max() < 1e-10
    np.testing.assert_allclose(isometry_error(2 * found), 3, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_the_error_sees_what_its_vector_does_not(scale):
    # The rows are so that the vector of signs sees singular values of 1 alone; the true ones are 1 and `scale`.
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (2, 1)) / np.sqrt(2)
    other = np.asarray([[signs[1, 0]], [-signs[0, 0]]])
    x = jnp.asarray(signs @ signs.T + scale * other @ other.T, jnp.float32)[None]
    exact = np.sqrt(np.mean((np.asarray([1.0, scale]) ** 2 - 1) ** 2))
    assert exact / np.sqrt(2) * (1 - 1e-5) < isometry_error(x).item() <= exact * (1 + 1e-5)
