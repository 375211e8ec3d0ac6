"""What the doctor says: of a healthy machine, of every trap, and of this machine."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import precond
from precond.diagnosis import Diagnosis, Machine, Trial, Trials, diagnose
from precond.diagnosis.find_notes import find_notes
from precond.diagnosis.find_problems import find_problems
from precond.diagnosis.machine import inspect_machine
from precond.diagnosis.trap import Evidence
from precond.diagnosis.trials import _distance_from_identity, _matrices

SETTINGS = {
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_disable_jit": False,
    "jax_enable_compilation_cache": True,
    "jax_compilation_cache_dir": None,
}
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": None, "XLA_FLAGS": None, "JAX_PLATFORMS": None}
HEALTHY = Machine(
    versions={"precond": "0.1.0", "Python": "3.12.1", "jax": "0.12.0.1", "jaxlib": "0.12.0.1", "numpy": "2.4.6"},
    platform="cpu",
    devices={"cpu": 1},
    processes=1,
    cores=2,
    hardware=(),
    settings=SETTINGS,
    environment=ENVIRONMENT,
    failure="",
)
GOOD = Trials("eigh", (Trial("eigh", 3.0, 4e-3), Trial("composite", 10.0, 3e-2)), Trial("qr", 2.0, 1e-6))


def evidence(trials=GOOD, dtype="float32", versions=None, settings=None, environment=None, **machine):
    """A healthy machine but for what is said."""
    changed = HEALTHY._replace(
        versions=HEALTHY.versions | (versions or {}),
        settings=SETTINGS | (settings or {}),
        environment=ENVIRONMENT | (environment or {}),
        **machine,
    )
    return Evidence(changed, trials, dtype)


def test_of_a_healthy_machine_there_is_nothing_to_say():
    assert find_problems(evidence()) == find_notes(evidence()) == ()


GPU = {"platform": "gpu", "devices": {"NVIDIA H100": 8}, "hardware": ("an NVIDIA GPU",)}
PROBLEMS = {
    "no device": ({"failure": "Unable to initialize backend 'cuda'", "platform": "", "trials": None}, "no device"),
    "an idle accelerator": ({"hardware": ("an NVIDIA GPU",)}, "has an NVIDIA GPU, but JAX computes on the CPU"),
    "old jax": ({"versions": {"jax": "0.9.2"}}, "jax is 0.9.2; the oldest supported version is 0.10"),
    "old flax": ({"versions": {"flax": "0.11.1"}}, "flax is 0.11.1"),
    "debug nans": ({"settings": {"jax_debug_nans": True}}, "JAX_DEBUG_NANS is on"),
    "debug infs": ({"settings": {"jax_debug_infs": True}}, "JAX_DEBUG_INFS is on"),
    "no jit": ({"settings": {"jax_disable_jit": True}}, "JAX_DISABLE_JIT is on"),
    "bfloat16 products": ({"settings": {"jax_default_matmul_precision": "bfloat16"}}, "set to bfloat16"),
    "TF32 products": (GPU | {"settings": {"jax_default_matmul_precision": "tensorfloat32"}}, "set to tensorfloat32"),
    "lost float64": ({"dtype": "float64"}, "64-bit types are off"),
    "threads by default": ({"environment": {"OPENBLAS_NUM_THREADS": None}}, "OPENBLAS_NUM_THREADS is not set"),
    "many threads": ({"environment": {"OPENBLAS_NUM_THREADS": "8"}}, "OPENBLAS_NUM_THREADS is 8"),
    "a cache that cannot be": ({"settings": {"jax_compilation_cache_dir": "/dev/null/cache"}}, "cannot be written"),
    "a wrong root": ({"trials": GOOD._replace(roots=(Trial("eigh", 3.0, 2.0),))}, "a residual of 2"),
    "no root at all": ({"trials": GOOD._replace(roots=(Trial("eigh", 3.0, float("nan")),))}, "a residual of nan"),
    "a wrong basis": ({"trials": GOOD._replace(basis=Trial("qr", 2.0, 0.5))}, "not orthonormal"),
}


@pytest.mark.parametrize(("change", "seen"), PROBLEMS.values(), ids=PROBLEMS)
def test_each_problem_is_found_alone_and_says_why_and_what_to_do(change, seen):
    (trap,) = find_problems(evidence(**change))
    assert seen in trap.seen
    assert all(text.endswith(".") for text in (trap.why, trap.advice))


NOTES = {
    "deadlock": ({"versions": {"jaxlib": "0.10.2"}}, "jaxlib 0.10.2 computes on the CPU"),
    "products of a GPU": (GPU, "below float32 on a gpu"),
    "a faster method": (
        {"trials": GOOD._replace(roots=(Trial("eigh", 30.0, 4e-3), Trial("composite", 10.0, 3e-2)))},
        "composite is 3.0 times as fast here as eigh",
    ),
    "no CPU beside": (
        GPU | {"environment": {"JAX_PLATFORMS": "cuda"}, "settings": {"jax_default_matmul_precision": "highest"}},
        "JAX_PLATFORMS is cuda, without cpu",
    ),
}


@pytest.mark.parametrize(("change", "seen"), NOTES.values(), ids=NOTES)
def test_each_note_is_found_alone_and_is_no_problem(change, seen):
    (note,) = find_notes(evidence(**change))
    assert seen in note.seen
    assert find_problems(evidence(**change)) == ()


def test_where_threads_wait_for_each_other_no_method_is_called_slow():
    slow = GOOD._replace(roots=(Trial("eigh", 1400.0, 4e-3), Trial("composite", 10.0, 3e-2)))
    assert find_notes(evidence(trials=slow, environment={"OPENBLAS_NUM_THREADS": None})) == ()


def test_what_is_meant_so_is_no_problem(tmp_path):
    fine = [
        {"settings": {"jax_enable_x64": True}, "dtype": "float64"},
        {"settings": {"jax_default_matmul_precision": "highest"}},
        {"settings": {"jax_compilation_cache_dir": str(tmp_path / "new")}},
        {"settings": {"jax_compilation_cache_dir": "gs://bucket/cache"}},
        {"environment": {"JAX_PLATFORMS": "cpu"}, "hardware": ("an NVIDIA GPU",)},
        {"environment": {"OPENBLAS_NUM_THREADS": None, "OMP_NUM_THREADS": "1"}},
        {"environment": {"OPENBLAS_NUM_THREADS": None}, "cores": 1},
        {"versions": {"jax": "0.10.0", "optax": "0.2.8"}},
    ]
    assert [find_problems(evidence(**change)) for change in fine] == [()] * len(fine)


def test_debug_nans_ends_a_run_that_precond_would_go_on_with():
    params = {"kernel": jnp.ones((4, 4))}
    gradients = {"kernel": jnp.full((4, 4), np.nan)}
    tx = precond.shampoo(1e-3)
    state, update = tx.init(params), jax.jit(tx.update)
    assert not np.any(update(gradients, state, params)[0]["kernel"])
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.block_until_ready(jax.jit(lambda g: tx.update(g, state, params))(jax.tree.map(jnp.sqrt, gradients)))


def test_a_float64_parameter_is_silently_float32_without_64_bit_types():
    assert jax.device_put(np.ones(3, np.float64)).dtype == jnp.float32


def test_the_settings_of_this_process_are_seen(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_something")
    with jax.debug_nans(True), jax.default_matmul_precision("bfloat16"):
        found = inspect_machine()
    assert found.environment["XLA_FLAGS"] == "--xla_something"
    assert found.settings["jax_debug_nans"]
    assert found.settings["jax_default_matmul_precision"] == "bfloat16"
    assert found.versions["jax"] == jax.__version__
    assert found.versions["precond"] == precond.__version__


def test_where_jax_finds_no_device_it_says_so(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(jax, "default_backend", fail)
    found = diagnose()
    assert found.trials is None
    assert [trap.seen for trap in found.problems] == [
        "JAX finds no device. It says: Unable to initialize backend 'cuda'"
    ]
    assert "platform                        none" in found.text()
    assert json.loads(found.json())["trials"] is None


def test_on_this_machine_roots_and_bases_are_right():
    found = diagnose()
    assert found.problems == ()
    assert found.trials.chosen == "eigh"
    assert all(0 < trial.milliseconds < 10_000 and trial.residual < 0.1 for trial in found.trials.roots)
    assert found.trials.basis.residual < 1e-4


def test_a_distance_is_the_spectral_norm():
    x = np.eye(64) + np.random.default_rng(0).standard_normal((3, 64, 64)) / 100
    exact = np.linalg.norm(x - np.eye(64), 2, axis=(1, 2)).max()
    assert _distance_from_identity(x) == pytest.approx(exact, rel=0.05)
    assert _distance_from_identity(np.full((1, 4, 4), np.nan)) != 0


def test_the_matrices_have_the_spectrum_that_is_said():
    vectors, matrices = _matrices()
    assert np.allclose(vectors.transpose(0, 2, 1) @ vectors, np.eye(256))
    values = np.linalg.eigvalsh(matrices)
    assert np.allclose(values, np.geomspace(1e-4, 1, 256))


def test_the_text_has_all_that_was_found():
    trials = GOOD._replace(basis=Trial("qr", 2.0, 0.5))
    machine = evidence(settings={"jax_compilation_cache_dir": "/cache"}).machine
    text = Diagnosis(machine, trials, find_problems(Evidence(machine, trials, "float32")), ()).text()
    for part in ("0.12.0.1", "1 x cpu", "/cache", "root by eigh(), the default", "4.0e-03", "Problem: The bases"):
        assert part in text
    assert "Why it matters: SOAP refuses" in text
    assert "What to do: Choose another method" in text
    assert "Nothing is wrong." not in text
    assert max(map(len, text.splitlines())) <= 110
