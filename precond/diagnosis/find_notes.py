"""Find facts of a machine that are good to know and are no problems."""

from collections.abc import Iterator

from precond.diagnosis.trap import Evidence, Trap

__all__ = ["find_notes"]

_FIRST_WITHOUT_DEADLOCK = (0, 12)  # the oldest jaxlib that was tried and did not hang
_WORTH_CHANGING = 2  # times as fast


def find_notes(evidence: Evidence) -> tuple[Trap, ...]:
    """Find what is good to know.

    Args:
      evidence: what is known of the machine.

    Returns:
      A trap for each thing that harms only those who do not know it.
    """
    checks = (_deadlock, _precision, _method, _host)
    return tuple(trap for check in checks for trap in check(evidence))


def _deadlock(evidence: Evidence) -> Iterator[Trap]:
    version = evidence.machine.versions.get("jaxlib", "")
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if evidence.machine.platform == "cpu" and version and numbers < _FIRST_WITHOUT_DEADLOCK:
        yield Trap(
            f"jaxlib {version} computes on the CPU.",
            "Two batched decompositions (eigh, qr, cholesky, svd) that may run at the same time in one program can "
            "wait for each other for ever. precond decomposes each matrix in a call of its own, and never hangs.",
            "In your own code decompose all matrices in one batched call, or one after the other.",
        )


def _precision(evidence: Evidence) -> Iterator[Trap]:
    machine = evidence.machine
    if machine.platform not in ("cpu", "") and machine.settings["jax_default_matmul_precision"] is None:
        yield Trap(
            f"The default matmul precision is JAX's own, which is below float32 on a {machine.platform}.",
            "precond multiplies its own matrices in full precision; parts that you write yourself do not.",
            'Pass precision="highest" to matrix products in parts of your own.',
        )


def _method(evidence: Evidence) -> Iterator[Trap]:
    if evidence.trials is None or evidence.machine.crowded:  # times then say nothing
        return
    by_name = {trial.method: trial for trial in evidence.trials.roots}
    chosen, fastest = by_name[evidence.trials.chosen], min(by_name.values(), key=lambda trial: trial.milliseconds)
    times = chosen.milliseconds / fastest.milliseconds
    if times > _WORTH_CHANGING:
        yield Trap(
            f"{fastest.method} is {times:.1f} times as fast here as {chosen.method}, the default.",
            "Refreshes take longer than they need.",
            f"Try method=precond.{fastest.method}() with blocks of your own size.",
        )


def _host(evidence: Evidence) -> Iterator[Trap]:
    machine = evidence.machine
    platforms = machine.environment["JAX_PLATFORMS"]
    if machine.platform not in ("cpu", "") and platforms and "cpu" not in platforms.split(","):
        yield Trap(
            f"JAX_PLATFORMS is {platforms}, without cpu.",
            "refresh=precond.on_host(..) computes roots on JAX's CPU backend, which is then missing.",
            f"Set JAX_PLATFORMS={platforms},cpu if you refresh on the host.",
        )
