"""What the compiler of a TPU says of one small program."""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import case, reading, targets


def cost(function, *shapes):
    """Compile a function, and return what the compiler says of it."""
    lowered = jax.jit(function).lower(*shapes)
    begin = case.processor_seconds()
    program = lowered.compile()
    seconds = case.processor_seconds() - begin
    memory = program.memory_analysis()
    return {
        "megacycles": round(reading.Reading(program.as_text()).summary()["cycles"]["step"] / 1e6, 2),
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_bytes": memory.generated_code_size_in_bytes,
        "compiler_s": round(seconds, 1),
    }


def on_one_chip(function, *trees):
    """Return what a function of trees costs on one chip."""
    mesh = Mesh(targets.devices_of(targets.TARGETS["v5e-1"]), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    placed = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree) for tree in trees]
    return cost(function, *placed)
