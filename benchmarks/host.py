"""Training steps beside a refresh on the host, against the same steps alone, and a refresh that everything waits for.

    python benchmarks/host.py            writes results/host.json and docs/images/host.svg
    python benchmarks/host.py --draw     draws the picture again

A step is the gradient of a small network and Shampoo's update; one worker refreshes the roots. Where device and host
are the same cores, as here, they share them: what is shown is that steps go on, not what a refresh costs a GPU.
"""

# First, for it sets the number of OpenBLAS's threads, which numpy reads when it is imported.
import measure  # isort: skip

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax
import plots

import precond

WIDTH, DEPTH, BATCH, PERIOD, PERIODS = 512, 6, 64, 30, 4


def trainer(tx: optax.GradientTransformation):
    """A jitted step, with its state donated."""

    def loss(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean((x - 0.5) ** 2)

    def step(params, state, x):
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def start():
    keys = jax.random.split(jax.random.key(0), DEPTH)
    return [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in keys]


def run(period, host: bool) -> list[dict]:
    """Milliseconds of every step, until its result is there, and what went on beside it."""
    tx = precond.shampoo(1e-3, refresh=precond.on_host(period) if host else precond.every(period, start=period))
    params, step = start(), trainer(tx)
    state, x = jax.jit(tx.init)(params), jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    refresh = precond.host_refresh(tx, params, workers=1) if host else None
    rows = []
    for i in range(PERIODS * period):
        begin, beside = time.perf_counter(), refresh is not None and refresh.pending > 0
        if refresh is not None:
            state = refresh(state)
        params, state = jax.block_until_ready(step(params, state, x))
        ms = 1e3 * (time.perf_counter() - begin)
        # The first two periods compile the step and the refresh.
        if i >= 2 * period:
            still = refresh is not None and refresh.pending > 0
            rows.append({"step": i + 1, "ms": round(ms, 2), "beside": bool(beside and still)})
    if refresh is not None:
        refresh.close()
    return rows


def middle(times: list[float]) -> float | None:
    """The median; None if there was no such step, as with a short period."""
    return round(statistics.median(times), 1) if times else None


def plot(host: list[dict], blocking: list[dict]) -> None:
    """Draw milliseconds of every step of both runs, and say which steps ran beside a refresh."""
    figure, (panel,) = plots.panels(1, height=3.4)
    beside = [r for r in host if r["beside"]]
    for rows, label, style in (
        (blocking, "refresh within the step", {"marker": "x", "color": plots.RED}),
        (host, "refresh on the host", {"marker": ".", "color": plots.BLUE}),
        (beside, "a refresh is in flight", {"marker": "o", "mfc": "none", "linestyle": "none", "color": plots.INK}),
    ):
        plots.curve(panel, [r["step"] for r in rows], [r["ms"] for r in rows], label, linewidth=1, **style)
    panel.set(xlabel="step", ylabel="milliseconds; less is better")
    plots.plain_log(panel.yaxis)
    figure.legend(loc="outside upper left", ncols=3)
    plots.save(figure, measure.IMAGES / "host.svg")


def main() -> None:
    """Both runs, a table, a plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--period", type=int, default=PERIOD)
    parser.add_argument("--draw", action="store_true", help="draw the committed result again")
    given = parser.parse_args()
    if given.draw:
        plot(**measure.load("host")["steps"])
        return
    period = given.period
    host, blocking = run(period, host=True), run(period, host=False)
    beside = [r["ms"] for r in host if r["beside"]]
    alone = [r["ms"] for r in host if not r["beside"] and 1 < r["step"] % period < period - 1]
    at = [r["ms"] for r in blocking if r["step"] % period == 0]
    summary = {
        "steps_beside_a_refresh": len(beside) // (PERIODS - 2),
        "median_ms_beside_a_refresh": middle(beside),
        "median_ms_alone": middle(alone),
        "median_ms_with_blocking_refresh": middle(at),
        "longest_ms_with_host_refresh": max(r["ms"] for r in host),
    }
    setting = {"width": WIDTH, "depth": DEPTH, "batch": BATCH, "period": period, "workers": 1}
    steps = {"host": host, "blocking": blocking}
    measure.save("host", {"setting": setting, "results": summary, "steps": steps})
    plot(**steps)


if __name__ == "__main__":
    main()
