"""What one device of 1, 2, 4 and 8 computes, keeps and receives, counted: time on shared cores says nothing.

    python benchmarks/scaling.py            writes results/scaling.json and docs/images/scaling.svg
    python benchmarks/scaling.py --draw     draws the picture again

Floating-point operations are XLA's own count for the program of one device, refreshes those of one device and step
(`refresh=1`, so that no branch hides any; by `precond.composite`, all of which XLA counts), bytes those of its shard of
the state, and those that its all-gather receives. The update of a transformer's parameters, without the model.
"""

# First, for it sets the number of OpenBLAS's threads, which numpy reads when it is imported.
import measure  # isort: skip

import argparse
import re

import jax
import numpy as np
import plots
import transformer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import precond

WIDTH, BLOCK, DEVICES = 128, 64, (1, 2, 4, 8)
COLLECTIVE = re.compile(r"= (\S+) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\(")


def on(devices: int, layers: int) -> dict:
    """The counts of one device of so many."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    tx = precond.shampoo(1e-3, block_size=BLOCK, refresh=1, method=precond.composite(), axis="data")
    params = jax.device_put(transformer.parameters(layers, WIDTH, 4 * WIDTH), NamedSharding(mesh, PartitionSpec()))
    state = jax.jit(tx.init)(params)
    program = jax.jit(tx.update).lower(params, state, params).compile()
    stacks = [
        (p, x.addressable_shards[0].data) for p, x in jax.tree_util.tree_leaves_with_path(state[0].stacks) if x.ndim
    ]
    roots = [x for path, x in stacks if "matrix" in jax.tree_util.keystr(path)]
    found = COLLECTIVE.findall(program.as_text())
    shapes = [shape for kind, _ in found for shape in re.findall(r"\[([\d,]*)\]", kind)]
    received = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]  # of a scalar: 1
    return {
        "devices": devices,
        "flops": program.cost_analysis()["flops"],
        "refreshes": sum(len(x) for x in roots),
        "state_bytes": sum(x.nbytes for _, x in stacks),
        "collectives": [name for _, name in found],
        "received_bytes": round(float(sum(received)) * 4 * (devices - 1) / devices),
        "parameter_bytes": sum(x.nbytes for x in jax.tree.leaves(params)),
    }


def plot(rows: list[dict]) -> None:
    """Each count relative to one device, against the ideal line."""
    figure, (panel,) = plots.panels(1, height=3.6)
    devices = [r["devices"] for r in rows]
    plots.curve(panel, devices, [1 / d for d in devices], "ideal", color=plots.GRAY, linewidth=4)
    for name, label, style, color in (
        ("flops", "operations", "o-", plots.BLUE),
        ("refreshes", "refreshes", "s--", plots.RED),
        ("state_bytes", "state", "^-.", plots.INK),
    ):
        shares = [r[name] / rows[0][name] for r in rows]
        panel.plot(devices, shares, style, color=color, label=f"{label} of one device")
    panel.set(xlabel="devices", ylabel="relative to one device")
    plots.plain_log(panel.xaxis, ticks=devices)
    plots.plain_log(panel.yaxis, ticks=[1 / d for d in devices])
    panel.legend()
    plots.save(figure, measure.IMAGES / "scaling.svg")


def main() -> None:
    """Count, print, save, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="draw the committed result again")
    given = parser.parse_args()
    if given.draw:
        plot(measure.load("scaling")["results"])
        return
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    rows = [on(devices, given.layers) for devices in DEVICES]
    for r in rows:
        ideal = {name: r[name] * r["devices"] / rows[0][name] for name in ("flops", "refreshes", "state_bytes")}
        r["times_ideal"] = {name: round(x, 3) for name, x in ideal.items()}
        print(r)
    measure.save("scaling", {"setting": {"layers": given.layers, "width": WIDTH, "block_size": BLOCK}, "results": rows})
    plot(rows)


if __name__ == "__main__":
    main()
