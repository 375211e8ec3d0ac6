"""Whole training steps of a GPT with every optimizer: how long they take, and which kernels they are made of."""

import concurrent.futures
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import precond
from benchmarks import measure
from benchmarks.ahead import models, optimizers

from . import clock

RATE = 1e-3
BLOCK = {"gpt-small": 256, "gpt-124m": 768}
CUBLAS = {"xla_gpu_enable_triton_gemm": False}
"""Products are those of cuBLAS, so that the compiler does not time a dozen Triton kernels for each of them."""
LOOPS_IN_GRAPHS = {
    **CUBLAS,
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,WHILE",
}
"""The host does not wait to learn whether a loop goes on."""
WITHOUT_GRAPHS = {**CUBLAS, "xla_gpu_enable_command_buffer": ""}
"""Kernels are launched one by one. Those in a CUDA graph do not say from which operation they are."""


def cases(model_name):
    """What is compared, by name: how to make the optimizer, and options of the compiler."""
    size = BLOCK[model_name]
    small = {"memory": precond.Memory(), "magnitude": precond.transforms.scale_by_mean_square(0.95)}
    shapes = models.MODELS[model_name].shapes()
    made = {
        "optax.adamw": lambda: optax.adamw(RATE),
        "shampoo": lambda: precond.shampoo(RATE, block_size=size),
        "soap": lambda: precond.soap(RATE, block_size=size),
        "muon": lambda: precond.muon(RATE),
        "optax.contrib.muon": lambda: optimizers.optimizer_of("optax_muon", shapes, None)[0],
        "kl_shampoo": lambda: precond.kl_shampoo(RATE, block_size=size),
        "soap, rotations": lambda: precond.soap(RATE, block_size=size, method=precond.roots.rotations(group=None)),
        "shampoo, small state": lambda: precond.shampoo(RATE, block_size=size, **small),
    }
    found = {name: (make, CUBLAS) for name, make in made.items()}
    found["shampoo, loops in graphs"] = (made["shampoo"], LOOPS_IN_GRAPHS)
    for name in ("shampoo", "soap"):
        found[f"{name}, kernel by kernel"] = (made[name], WITHOUT_GRAPHS)
    return found


def start(model):
    """Small random parameters; the scales of norms are 1, and biases are 0."""

    def leaf(path, x):
        name = path[-1].key
        if name in ("scale", "bias"):
            return jnp.full(x.shape, float(name == "scale"), x.dtype)
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        return jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32))

    return jax.tree_util.tree_map_with_path(leaf, model.shapes())


def batches(model, sequences, count=4):
    """Tokens in which each follows from the one before, but for a tenth of them: there is something to learn."""
    tokens, _ = model.batch(1)
    vocabulary = model.shapes()["tokens"]["embedding"].shape[0]
    rng = np.random.default_rng(0)
    for _ in range(count):
        drawn = rng.integers(vocabulary, size=(sequences, tokens.shape[1] + 1))
        for t in range(1, drawn.shape[1]):
            follows = (31 * drawn[:, t - 1] + 7) % 1009
            drawn[:, t] = np.where(rng.random(sequences) < 0.9, follows, drawn[:, t])
        yield jnp.asarray(drawn[:, :-1], jnp.int32), jnp.asarray(drawn[:, 1:], jnp.int32)


def lowered(model, tx, params, batch):
    """A step that is traced, and the first state of the optimizer."""
    tx = optax.with_extra_args_support(tx)

    def step(params, state, tokens, targets):
        value, grads = jax.value_and_grad(model.loss)(params, tokens, targets)
        with jax.named_scope("optimizer"):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, value

    state = jax.eval_shape(tx.init, params)
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, *batch), jax.jit(tx.init)


def rows(model_name, sequences, steps, names=None, ready=lambda: None, programs=None):
    """Compile all cases side by side, and then run one after the other. Each gives a row.

    Args:
      model_name: one of `BLOCK`.
      sequences: of a batch.
      steps: how many are timed, one by one and then in a row.
      names: of the cases, or None for all.
      ready: waits until the device has nothing else to do.
      programs: a folder for the texts of the programs, or None.
    """
    model = models.MODELS[model_name]
    params, data = start(model), list(batches(model, sequences))
    chosen = {name: case for name, case in cases(model_name).items() if names is None or name in names}

    def compiled(name):
        make, options = chosen[name]
        began = time.perf_counter()
        traced, init = lowered(model, make(), params, data[0])
        middle = time.perf_counter()
        program = traced.compile(options)
        return program, init, round(middle - began, 1), round(time.perf_counter() - middle, 1)

    with concurrent.futures.ThreadPoolExecutor(len(chosen)) as pool:
        jobs = {name: pool.submit(compiled, name) for name in chosen}
        concurrent.futures.wait(jobs.values())
    ready()
    for name, job in jobs.items():
        row = {"model": model_name, "tokens": sequences * data[0][0].shape[1], "optimizer": name}
        try:
            program, init, trace_s, compile_s = job.result()
            row |= {"trace_s": trace_s, "compile_s_side_by_side": compile_s}
            row |= _run(program, params, init, data, steps)
            if programs is not None:
                programs.mkdir(parents=True, exist_ok=True)
                (programs / f"{model_name}-{name}.txt".replace(" ", "_")).write_text(program.as_text())
        except Exception as error:  # one that does not compile, or has no room, leaves the others their turn
            lines = str(error).splitlines() or [repr(error)]
            row["failed"] = lines[0][:300]
        yield row


def _run(program, params, init, data, steps):
    """Train with a compiled step."""
    keep = {"params": jax.tree.map(jnp.copy, params), "state": init(params), "losses": []}
    size = sum(x.nbytes for x in jax.tree.leaves(keep["state"]))

    def run():
        batch = data[len(keep["losses"]) % len(data)]
        keep["params"], keep["state"], value = program(keep["params"], keep["state"], *batch)
        keep["losses"].append(value)
        return value

    jax.block_until_ready(run())
    times = [measure.seconds(run) for _ in range(steps)]
    mean = clock.in_a_row(run, 4 * steps)
    profile = clock.kernels(run, program.as_text(), min(steps, 20))
    losses = [float(x) for x in keep["losses"]]
    stats = program.memory_analysis()
    return {
        "step_ms": measure.summary(times),
        "step_ms_in_a_row": round(mean, 3),
        "state_mb": round(size / 1e6, 1),
        "temporary_mb": round(stats.temp_size_in_bytes / 1e6, 1),
        "losses": [round(x, 3) for x in losses[:: max(len(losses) // 6, 1)]],
        "profile": profile,
    }
