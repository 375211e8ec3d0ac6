"""Options of Google's Shampoo, and its Tearfree Shampoo, by the trajectories of their code."""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from precond import recipes, transforms
from tests.parity.options import assert_followed

pytestmark = pytest.mark.usefixtures("x64")

FOLDER = Path(__file__).parent / "golden"
GOLDEN = np.load(FOLDER / "google_options.npz")
BLOCKS = {"block_size": 4, "merge_dims": 2}
SGD = {"grafting": optax.identity(), "skip_preconditioning_any_dim_gt": 5, "weight_decay_after_momentum": False}
ADAFACTOR = optax.chain(optax.adafactor(min_dim_size_to_factor=2, eps=1e-20), optax.scale(-1))


def cosine(step):
    return 0.05 * (0.5 + 0.5 * jnp.cos(0.3 * step))


def falling(step):
    return 0.05 * jnp.maximum(1 - step / 8.0, 0.01)


def halved(step):
    return 0.05 * jnp.where(step < 3, 1.0, 0.5)


def shampoo(rate, **given):
    return recipes.google_shampoo(
        rate,
        block_size=4,
        beta2=0.95,
        matrix_epsilon=1e-4,
        grafting=lambda: transforms.scale_by_diagonal(0.95, eps=1e-8),
        start_preconditioning_step=2,
        merge_small_dims_block_size=0,
        moving_average_for_momentum=True,
        **given,
    )


OPTIONS = {
    "tearfree default": lambda: recipes.google_tearfree(0.05),
    "tearfree rank1 blocks": lambda: recipes.google_tearfree(
        cosine,
        grafting=optax.scale_by_rss(0.0, 1e-8),
        skip_preconditioning_rank1=False,
        start_preconditioning_step=3,
        update_preconditioners_freq=4,
        update_statistics_freq=3,
        second_moment_decay=1.0,
        ema=True,
        nesterov=False,
        weight_decay=0.1,
        **BLOCKS,
    ),
    "tearfree sgd before": lambda: recipes.google_tearfree(
        0.05, second_moment_decay=0.9, momentum_decay=0.7, weight_decay=0.1, block_size=3, merge_dims=6, **SGD
    ),
    "tearfree none": lambda: recipes.google_tearfree(
        0.05, grafting=None, second_moment_decay=0.95, momentum_decay=0.0, **BLOCKS
    ),
    "tearfree adafactor": lambda: recipes.google_tearfree(0.05, grafting=ADAFACTOR, second_moment_decay=0.95, **BLOCKS),
    "period": lambda: shampoo(falling, preconditioning_compute_steps=1, end_preconditioning_compute_steps=40),
    "period 10": lambda: shampoo(halved, preconditioning_compute_steps=2, end_preconditioning_compute_steps=16),
    "threshold newton": lambda: shampoo(
        0.05, root=functools.partial(recipes.google_newton, inverse_failure_threshold=2e-8)
    ),
}
QUICK = ["tearfree rank1 blocks", "period"]


def check(option, names):
    assert_followed(OPTIONS[option](), GOLDEN, option, names, 1e-8)


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
    ("make", "message"),
    [
        (lambda: shampoo(0.1, end_preconditioning_compute_steps=40), "learning_rate=0.1 is a number. Pass a schedule"),
        (lambda: shampoo(lambda step: 0.1 * step, end_preconditioning_compute_steps=40), "schedule begins at 0"),
        (lambda: recipes.google_newton(inverse_failure_threshold=-1.0), "inverse_failure_threshold=-1.0"),
        (lambda: recipes.google_tearfree(block_size=1), "block_size=1"),
        (lambda: recipes.google_tearfree(momentum_decay=2.0), "momentum_decay=2.0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
