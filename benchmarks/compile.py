"""Trace and compile time of one update, and the length of its program, against depth and against peers.

python benchmarks/compile.py            writes results/compile.json and docs/images/compile.svg
python benchmarks/compile.py --draw     draws the picture again
"""

import argparse
import time

import jax
import measure
import optax
import peer
import plots
import transformer

import precond

BLOCK, PERIOD = 128, 10


def optimizers() -> dict[str, optax.GradientTransformation]:
    """What is compared, all with the same blocks and refresh period."""
    return {
        "optax.adamw": optax.adamw(1e-3),
        "precond.shampoo": precond.shampoo(1e-3, block_size=BLOCK, refresh=PERIOD, weight_decay=1e-4),
        "precond.shampoo, staggered": precond.shampoo(
            1e-3, block_size=BLOCK, refresh=precond.every(PERIOD, stagger=True), weight_decay=1e-4
        ),
        "precond.shampoo, newton": precond.shampoo(
            1e-3, block_size=BLOCK, refresh=PERIOD, method=precond.newton(), weight_decay=1e-4
        ),
        "precond.soap": precond.soap(1e-3, block_size=BLOCK, weight_decay=1e-4),
        "precondition-opt, eigh": peer.google_shampoo(BLOCK, PERIOD, eigh=True),
        "precondition-opt, newton": peer.google_shampoo(BLOCK, PERIOD, eigh=False),
    }


def compile_once(tx: optax.GradientTransformation, params: dict) -> dict[str, float]:
    """Seconds to trace and lower, and to compile, and the lines of the program."""
    state = jax.jit(tx.init)(params)
    start = time.perf_counter()
    lowered = jax.jit(lambda *x: tx.update(*x)).lower(params, state, params)  # a new function has not been traced
    traced = time.perf_counter()
    lowered.compile()
    done = time.perf_counter()
    lines = len(lowered.as_text().splitlines())
    return {"trace_s": round(traced - start, 2), "compile_s": round(done - traced, 2), "lines": lines}


def plot(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Seconds against depth, one line an optimizer."""
    figure, (axes,) = plots.panels(1, height=4.3)
    for marker, (name, by_depth) in zip(plots.MARKERS, results.items(), strict=False):
        total = [x["trace_s"] + x["compile_s"] for x in by_depth.values()]
        plots.curve(axes, [int(d) for d in by_depth], total, name, marker=marker)
    axes.set(xlabel="layers", ylabel="seconds to trace and compile; less is better")
    plots.plain_log(axes.xaxis, ticks=[int(d) for d in next(iter(results.values()))])
    plots.plain_log(axes.yaxis)
    figure.legend(loc="outside upper left", ncols=2)
    plots.save(figure, measure.IMAGES / "compile.svg")


def main() -> None:
    """Compile every optimizer at every depth, and keep the fastest of several rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="draw the committed result again")
    options = parser.parse_args()
    if options.draw:
        plot(measure.load("compile")["results"])
        return
    layers, results = options.layers, {name: {} for name in optimizers()}
    for depth in layers:
        params = transformer.parameters(depth)
        for _ in range(options.rounds):
            for name, tx in optimizers().items():
                now = compile_once(tx, params)
                before = results[name].get(str(depth), now)
                results[name][str(depth)] = {what: min(now[what], before[what]) for what in now}
        for name, found in results.items():
            print(depth, name, found[str(depth)], flush=True)

    def total(name: str) -> float:
        deepest = results[name][str(layers[-1])]
        return deepest["trace_s"] + deepest["compile_s"]

    best_peer = min(total(name) for name in results if name.startswith("precondition"))
    ratios = {name: round(best_peer / total(name), 1) for name in results if name.startswith("precond.")}
    setting = {"width": 256, "hidden": 1024, "block_size": BLOCK, "period": PERIOD, "deepest": layers[-1]}
    setting["rounds"] = options.rounds
    measure.save("compile", {"setting": setting, "times_faster_than_the_best_peer": ratios, "results": results})
    plot(results)


if __name__ == "__main__":
    main()
