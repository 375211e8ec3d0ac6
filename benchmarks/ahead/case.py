"""One case: a model, a loop, a target and an optimizer, compiled in this process."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "optax")


class Case(NamedTuple):
    """What is compiled."""

    model: str
    loop: str
    target: str
    optimizer: str

    @property
    def key(self):
        return "/".join(self)

    @classmethod
    def of(cls, key):
        return cls(*key.split("/"))


def versions(platform_name):
    """What the numbers depend on."""
    from precond import __version__

    wanted = [p for p in PACKAGES if p not in {"tpu": ("jax-cuda13-plugin",), "cuda": ("libtpu",)}[platform_name]]
    found = {p: metadata.version(p) for p in wanted}
    return {"python": platform.python_version(), **found, "precond": __version__}


def today():
    """The date, as rows have it."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def processor_seconds():
    """Of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compiled(case, told=lambda stage: None, programs=None):
    """Compile a case, and say what the compiler made of it.

    Args:
      case: a `Case`.
      told: called with the name of every stage before it begins.
      programs: a folder that gets the text of the program, or None.

    Returns:
      What `results.merged` keeps.
    """
    told("start")
    import jax

    from . import loops, models, optimizers, reading, targets

    target, loop, model = targets.TARGETS[case.target], loops.LOOPS[case.loop], models.MODELS[case.model]
    mesh = loops.mesh_of(loop, targets.devices_of(target))
    told("trace")
    begin = processor_seconds()
    shapes = model.shapes()
    axis = loops.axis_of(loop, mesh)
    tx, extra = optimizers.optimizer_of(case.optimizer, shapes, axis, scanned=model.scanned)
    params = loops.placed(mesh, shapes, jax.tree.map(lambda x: loops.specification(loop, mesh, x.shape), shapes))
    lowered = loops.lowered(loop, mesh, model, tx, params, extra)
    traced = processor_seconds()
    told("compile")
    program = lowered.compile()
    done = processor_seconds()
    told("read")
    text = program.as_text()
    if programs is not None:
        Path(programs).mkdir(parents=True, exist_ok=True)
        (Path(programs) / f"{case.key.replace('/', '-')}.txt").write_text(text)
    return {
        "compiler_s": round(done - traced, 1),
        "trace_s": round(traced - begin, 1),
        **_memory(program),
        "state_bytes": _share(loops.state_of(mesh, tx, params)),
        **reading.Reading(text).summary(),
        "device": mesh.devices.flat[0].device_kind,
        "versions": versions(target.platform),
        "date": today(),
    }


def _share(tree):
    """Bytes of one device, without the padding of tiles."""
    import jax
    import numpy as np

    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _memory(program):
    """Bytes of one device, as the compiler lays them out."""
    stats = program.memory_analysis()
    return {
        "peak_bytes": getattr(stats, "peak_memory_in_bytes", None),
        "temporary_bytes": stats.temp_size_in_bytes,
        "argument_bytes": stats.argument_size_in_bytes,
        "program_bytes": stats.generated_code_size_in_bytes,
    }
