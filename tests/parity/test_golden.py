"""Trajectories of the reference implementations, followed by recipes of public parts."""

from pathlib import Path

import numpy as np
import optax
import pytest

import precond
from precond import recipes
from tests.parity import inputs
from tests.problem import AS_USERS, distance, trajectory

pytestmark = pytest.mark.usefixtures("x64")


def meta_shampoo():
    adam = precond.transforms.scale_by_diagonal(0.99, eps=1e-8, bias_correction=True)
    return recipes.meta_shampoo(
        2**-7,
        betas=(0.9, 0.99),
        epsilon=1e-6,
        grafting=adam,
        weight_decay=0.05,
        max_preconditioner_dim=8,
        precondition_frequency=4,
        start_preconditioning_step=4,
    )


def meta_soap():
    return recipes.meta_soap(
        2**-7,
        betas=(0.9, 0.99),
        epsilon=1e-8,
        weight_decay=0.05,
        max_preconditioner_dim=8,
        precondition_frequency=3,
        start_preconditioning_step=12,
    )


def google_shampoo():
    return recipes.google_shampoo(
        0.01,
        beta2=0.99,
        block_size=8,
        grafting=lambda: optax.chain(
            precond.transforms.normalize(), precond.transforms.scale_by_diagonal(0.99, eps=1e-8)
        ),
        weight_decay=0.01,
        preconditioning_compute_steps=4,
        merge_small_dims_block_size=0,
        moving_average_for_momentum=True,
    )


def official_soap():
    return recipes.official_soap(0.01, precondition_frequency=3)


def official_soap_1d():
    return recipes.official_soap(
        0.01, precondition_frequency=3, precondition_1d=True, normalize_grads=True, shampoo_beta=0.9
    )


def nvidia_muon():
    return recipes.nvidia_muon(2**-5, nesterov=True, weight_decay=0.05)


def nvidia_kl_soap():
    return recipes.nvidia_kl_soap(2**-7, eps=1e-3, weight_decay=0.05)


def nvidia_rekls():
    return recipes.nvidia_kl_soap(2**-7, eps=1e-3, weight_decay=0.05, method=recipes.nvidia_eigh())


# Oracles follow these trajectories in `test_configurations.py`, and the recipes follow the oracles in `test_drawn.py`.
LATE = [
    pytest.param("meta_shampoo_adam_graft", meta_shampoo, 1e-9, marks=pytest.mark.slow),
    pytest.param("meta_soap_eigh", meta_soap, 1e-9, marks=pytest.mark.slow),
    # Its power iteration stops at 1e-6.
    pytest.param("google_shampoo_rmsprop_norm", google_shampoo, 1e-8, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("name", "tx", "tolerance"),
    [
        *LATE,
        ("soap_official", official_soap, 1e-9),
        ("soap_official_1d", official_soap_1d, 1e-9),
        ("nvidia_muon_quintic", nvidia_muon, 1e-9),
        ("nvidia_kl_soap", nvidia_kl_soap, 1e-9),
        ("nvidia_rekls", nvidia_rekls, 1e-9),
    ],
)
def test_the_recipe_follows_the_reference(name, tx, tolerance):
    golden = np.load(Path(__file__).parent / "golden" / f"{name}.npz")
    # The corner that the reference was given: its factors have full rank from the first step, or lack but one column.
    corner = {k: tuple(slice(d) for d in golden[k].shape[1:]) for k in golden.files}
    params = {k: v[corner[k]] for k, v in inputs.params().items() if k in corner}
    steps = len(golden[next(iter(params))])
    grads = [{k: g[k][corner[k]] for k in params} for g in inputs.grads(24)[:steps]]
    path = trajectory(tx(), params, grads, compiler_options=AS_USERS)
    for k, start in params.items():
        assert distance(path[k], golden[k], start) < tolerance, k
