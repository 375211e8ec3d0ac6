"""Every option of Meta's Distributed Shampoo, by the trajectories of their code."""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import orthogonal, recipes, transforms
from precond.recipes import meta_eigendecomposed, meta_eigh_basis, meta_qr_basis, meta_svd, primal_averaging
from tests.parity.options import assert_followed

pytestmark = pytest.mark.usefixtures("x64")

FOLDER = Path(__file__).parent / "golden"
GOLDEN = np.load(FOLDER / "meta_options.npz")

# The trajectories of the first group are of the code as it is, which keeps learning rate and averages in float32.
RATE = float(np.float32(0.01))
MU_X = float(np.float32(0.9))
MU_Y = (1 - float(np.float32(1) - np.float32(0.8) * np.float32(0.9))) / MU_X
DECAY = (1 - float(np.float32(1) - np.float32(0.01) * np.float32(0.1))) / RATE

BASE = {"betas": (0.9, 0.95), "epsilon": 1e-3, "max_preconditioner_dim": 4, "precondition_frequency": 2}
SOAP = {"betas": (0.9, 0.95), "epsilon": 1e-5, "max_preconditioner_dim": 3, "precondition_frequency": 2}
BY_AXIS = {2: {0: 0.5, 1: 0}, 3: 0.25}
WHOLE = {"max_preconditioner_dim": 10**6, "target_dimensionality": 2}
ONE_NORM = precond.per_block(optax.stateless_with_tree_map(lambda g, _: jnp.sign(g) * jnp.abs(g).sum()))
MODULA = orthogonal.newton_schulz([(3.0, -16 / 5, 6 / 5)] * 7)
OUTPUTS = orthogonal.width(outputs=0)  # rows, as in PyTorch


def cosine(step):
    return 0.01 * (0.5 + 0.5 * jnp.cos(0.3 * step))


def diagonal(decay=0.9, **given):
    return transforms.scale_by_diagonal(decay, eps=1e-6, **given)


def shampoo(rate=0.01, **given):
    return recipes.meta_shampoo(rate, **(BASE | given))


def soap(rate=0.01, **given):
    return recipes.meta_soap(rate, **(SOAP | {"start_preconditioning_step": 5} | given))


def descent(direction=None, rate=0.01, **given):
    blocks = {"max_preconditioner_dim": 4, "precondition_frequency": 2}
    return recipes.meta_descent(rate, direction=direction, beta1=0.9, **(blocks | given))


def eigendecomposed(kl=False, more=None, **given):
    root = functools.partial(meta_eigendecomposed, **given)
    return shampoo(root=root, kullback_leibler=kl, **(more or {}))


OPTIONS = {
    "plain": lambda: shampoo(RATE),
    "gpa_wd": lambda: shampoo(RATE, weight_decay=DECAY, averaging=primal_averaging(MU_Y, MU_X)),
    "momentum": lambda: shampoo(RATE, weight_decay=0.1, momentum=0.7, dampening=0.2, nesterov=True),
    "trace": lambda: shampoo(RATE, trace_scaling=0.5),
    "exp": lambda: shampoo(RATE, power=BY_AXIS),
    "kl": lambda: shampoo(RATE, kullback_leibler=True),
    "target": lambda: shampoo(RATE, target_dimensionality=1),
    "eigdec_qr": lambda: shampoo(RATE, root=functools.partial(meta_eigendecomposed, method=meta_qr_basis())),
    "sign": lambda: descent(None, RATE),
    "soap_qr_eps4": lambda: soap(RATE, method=meta_qr_basis(), epsilon=1e-3, start_preconditioning_step=9),
    "soap_ignored": lambda: soap(RATE, ignored_basis_change_dims={2: [1]}, start_preconditioning_step=9),
    # From here on, of the code with its float32 made float64.
    "eigendecomposed": lambda: eigendecomposed(),
    "eigendecomposed_kl": lambda: eigendecomposed(kl=True),
    "eigendecomposed_kl_qr": lambda: eigendecomposed(
        kl=True, more={"start_preconditioning_step": 5}, method=meta_qr_basis(3, 0.05), after=True
    ),
    "eigendecomposed_tolerance": lambda: eigendecomposed(
        more={"power": BY_AXIS, "trace_scaling": 0.5, "start_preconditioning_step": 5}, method=meta_eigh_basis(0.3)
    ),
    "eigendecomposed_pseudo": lambda: eigendecomposed(
        more=SOAP | {"epsilon": 0.0, "start_preconditioning_step": 5},
        method=meta_qr_basis(2),
        pseudo_inverse=True,
        rtol=0.05,
    ),
    "pseudo_inverse": lambda: shampoo(
        root=recipes.meta_pseudo_inverse, **(SOAP | {"epsilon": 0.0, "start_preconditioning_step": 5})
    ),
    "pseudo_inverse_atol": lambda: shampoo(
        root=functools.partial(recipes.meta_pseudo_inverse, rtol=None, atol=1.0), epsilon=0.0
    ),
    "gpa_decay": lambda: shampoo(weight_decay=0.1, averaging=primal_averaging()),
    "gpa_independent": lambda: shampoo(cosine, weight_decay=0.001 / 0.01, averaging=primal_averaging(0.9, 0.7)),
    "schedule_free_corrected": lambda: shampoo(
        cosine,
        weight_decay=lambda step: 0.1 * cosine(step) / 0.01,
        averaging=primal_averaging(evaluation=None, learning_rate=cosine),
    ),
    "schedule_free_l2": lambda: soap(
        cosine,
        weight_decay=0.1,
        decoupled_weight_decay=False,
        averaging=primal_averaging(0.7, None, learning_rate=cosine, power=1),
    ),
    "soap_default": lambda: soap(method=meta_qr_basis(), epsilon=1e-3),
    "soap_qr_after": lambda: soap(method=meta_qr_basis(3, 0.1), after=True, power={2: 0.25, 3: 0.4}, epsilon=1e-3),
    "soap_qr_iterations": lambda: soap(method=meta_qr_basis(4, 0.1), trace_scaling=0.8, epsilon=1e-2),
    "soap_ignored_more": lambda: soap(
        method=meta_eigh_basis(0.2),
        ignored_basis_change_dims={1: [0], 3: [0, 2]},
        power={1: 0.3},
        drop_weighting_factor=True,
        grafting=diagonal(),
        epsilon=1e-3,
    ),
    "sign_scaled": lambda: descent(ONE_NORM, weight_decay=0.1, beta3=0.5),
    "sign_grafted": lambda: descent(grafting=diagonal(bias_correction=True), start_preconditioning_step=4),
    "sign_graft": lambda: soap(grafting=optax.scale_by_sign()),
    "spectral": lambda: descent(transforms.orthogonalize(), weight_decay=0.1, momentum=0.7, nesterov=True, **WHOLE),
    "spectral_modula": lambda: descent(transforms.orthogonalize(MODULA, scale=OUTPUTS), **WHOLE),
    "spectral_svd": lambda: descent(
        transforms.orthogonalize(meta_svd(scale_by_nuclear_norm=True)), averaging=primal_averaging()
    ),
    "spectral_graft": lambda: shampoo(
        grafting=transforms.orthogonalize(meta_svd(), scale=OUTPUTS), start_preconditioning_step=4
    ),
    "adam": lambda: descent(diagonal(bias_correction=True), beta3=0.5),
    "sgd_grafted": lambda: descent(optax.identity(), grafting=diagonal(1.0), start_preconditioning_step=3),
}
# Of the matrix alone; the drawn configurations have the others.
QUICK = [
    "gpa_wd", "eigdec_qr", "sign", "soap_qr_eps4", "soap_ignored", "eigendecomposed_kl_qr", "eigendecomposed_tolerance",
    "eigendecomposed_pseudo", "schedule_free_corrected", "soap_qr_after", "spectral_svd", "spectral_graft",
]  # fmt: skip


def check(option, names):
    assert_followed(OPTIONS[option](), GOLDEN, option, names, 1e-9)


@pytest.mark.parametrize("option", QUICK)
def test_a_matrix_follows_theirs(option):
    check(option, ["w"])


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_all_parameters_follow_theirs(option):
    check(option, ["w", "b", "t", "c"])


def test_every_trajectory_of_theirs_is_followed():
    assert {name.split("/")[0] for name in GOLDEN.files} == set(OPTIONS)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: shampoo(momentum=0.9, averaging=primal_averaging()), ValueError, "momentum=0.9 and averaging="),
        (
            lambda: soap(ignored_basis_change_dims={2: [2]}),
            ValueError,
            r"a block of 2 axes has no \[2\]",
        ),
        (lambda: soap(power={2: -1.0}), ValueError, r"power\[2\]=-1.0"),
        (lambda: meta_qr_basis(tolerance=2.0), ValueError, "tolerance=2.0"),
        (lambda: eigendecomposed(pseudo_inverse=True), ValueError, "epsilon=0.001: must be 0 with pseudo_inverse"),
        (lambda: eigendecomposed(method=precond.newton()), ValueError, "method=newton.* computes no eigenbasis"),
        (lambda: descent(direction="sign"), TypeError, "direction='sign'"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_decay_of_an_averaging_needs_one_and_the_parameters():
    w = {"w": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=r"averaging=.*must be recipes.primal_averaging"):
        shampoo(weight_decay=0.1, averaging=optax.ema(0.9)).init(w)
    tx = shampoo(weight_decay=0.1, averaging=primal_averaging())
    with pytest.raises(ValueError, match="params"):
        tx.update(w, tx.init(w))


def test_a_basis_that_is_good_enough_stays():
    factor, old = jnp.asarray([[[2.0, 0.1], [0.1, 1.0]], [[2.0, 0.9], [0.9, 1.0]]]), jnp.stack([jnp.eye(2)] * 2)
    kept, found = meta_eigh_basis(0.1).basis(factor, old, True)
    np.testing.assert_array_equal(kept, np.eye(2))
    np.testing.assert_allclose(np.abs(found), np.abs(np.linalg.eigh(factor[1])[1]), rtol=1e-12)
