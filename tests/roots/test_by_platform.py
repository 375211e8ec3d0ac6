"""Methods by platform, and what the defaults of the aliases are made of on a TPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond.linalg import rotate_basis, scaled_off_diagonal
from precond.roots import by_platform, rotations
from tests import reference

pytestmark = pytest.mark.platforms

DECOMPOSITIONS = re.compile(r"custom_call @(\w*(?:eigh|qr|geqrf|cholesky|svd|syev|Eigh|Qr|Householder)\w*)|cholesky")


def program(function, *args, platform):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def refreshed(method):
    def refresh(a, old, first):
        return method.basis(a, old, first)

    a = jax.ShapeDtypeStruct((2, 16, 16), "float32")
    return lambda platform: program(refresh, a, a, jax.ShapeDtypeStruct((), bool), platform=platform)


@pytest.mark.parametrize(
    ("platform", "decomposed"), [("cpu", True), ("cuda", True), ("rocm", False), ("tpu", False)], ids=str
)
def test_each_platform_has_its_own_method(platform, decomposed):
    methods = {"cuda": "gpu", "rocm": "gpu"}
    given = {} if decomposed else {methods.get(platform, platform): rotations(group=None)}
    text = refreshed(by_platform(precond.qr(), **given))(platform)
    assert bool(DECOMPOSITIONS.search(text)) == decomposed


def test_it_computes_what_all_of_them_compute():
    both = by_platform(precond.eigh(), tpu=precond.composite())
    assert both.root is not None
    assert both.basis is None
    assert repr(both) == "by_platform(eigh(), tpu=composite())"


def test_methods_with_nothing_in_common_are_refused():
    with pytest.raises(ValueError, match="one of them computes roots alone and another one bases alone"):
        by_platform(precond.qr(), tpu=precond.composite())


ALIASES = {
    name: getattr(precond, name) for name in ("shampoo", "soap", "kl_shampoo", "kl_soap", "muon", "scale_by_soap")
}


@pytest.mark.parametrize("alias", ALIASES)
def test_a_default_alias_decomposes_nothing_on_a_tpu(alias):
    tx = ALIASES[alias]() if alias.startswith("scale_by") else ALIASES[alias](1e-3)
    params = {"kernel": jax.ShapeDtypeStruct((32, 16), "float32"), "bias": jax.ShapeDtypeStruct((16,), "float32")}
    state = jax.eval_shape(tx.init, params)
    text = program(tx.update, params, state, params, platform="tpu")
    assert "dot_general" in text
    assert not DECOMPOSITIONS.search(text)


@pytest.mark.parametrize("alias", ["soap", "kl_soap", "scale_by_soap"])
def test_a_default_alias_refreshes_by_cholesky_on_a_gpu(alias):
    tx = ALIASES[alias]() if alias.startswith("scale_by") else ALIASES[alias](1e-3)
    params = {"kernel": jax.ShapeDtypeStruct((32, 16), "float32")}
    text = program(tx.update, params, jax.eval_shape(tx.init, params), params, platform="cuda")
    calls = re.findall(r"custom_call @cusolver_(\w+)_ffi", text)
    # Of each side, the three decompositions of a step, and those of the first basis, which ends with the only QR.
    assert calls == 2 * 3 * ["potrf"] + 2 * ["syevd", "geqrf", "orgqr"]


def test_rotations_without_decompositions_find_the_first_basis():
    n, rng = 64, np.random.default_rng(0)
    few = rng.standard_normal((n, n // 4))
    stack = [reference.matrix_of_spectrum(np.geomspace(1, 1 / c, n), rng) for c in (1e2, 1e4, 1e6)]
    a = jnp.asarray(np.stack([*stack, few @ few.T, np.eye(n), np.zeros((n, n))]), jnp.float32)
    first = rotations(group=None).basis(a, jnp.broadcast_to(jnp.eye(n), a.shape), jnp.asarray(True))
    assert jnp.max(scaled_off_diagonal(a, first)) < 0.02
    np.testing.assert_allclose(jnp.swapaxes(first, 1, 2) @ first, jnp.broadcast_to(jnp.eye(n), a.shape), atol=1e-5)


def test_later_refreshes_take_the_sweeps_they_were_told():
    a = jnp.asarray(reference.matrix_of_spectrum(np.geomspace(1, 1e-2, 8), np.random.default_rng(0)), jnp.float32)[None]
    old = jnp.eye(8)[None]
    found = rotations(group=None, sweeps=3).basis(a, old, jnp.asarray(False))
    np.testing.assert_allclose(found, rotate_basis(a, old, 3), atol=1e-6)
