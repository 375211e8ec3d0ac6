"""A transformer as MaxText has it: scanned layers, logical axes, a state that is born divided over eight devices.

The shapes of the whole training state are found by `jax.eval_shape`, its shardings from the names of its axes, and
only then is it made, by `jax.jit(.., out_shardings=)`. The parameters are in Flax's boxes, which have these names. So
are the stacks of the optimizer's state, because the parameters are, and the loop is the same as for AdamW.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import precond

RATE, STEPS = 3e-3, 100
OPTIONS = {"axis": ("fsdp", "tensor"), "views": precond.views.maxtext(scan_axis=1)}
LAYERS, WIDTH, HEADS, HIDDEN, SYMBOLS, LENGTH, BATCH = 8, 32, 4, 64, 64, 16, 32
RULES = (("embed", "fsdp"), ("mlp", "tensor"), ("heads", "tensor"), ("vocab", "tensor"), ("kv", None), ("norm", None))


def named(*names):
    return nn.with_logical_partitioning(nn.initializers.normal(0.1), names)


def norm(name):
    return nn.RMSNorm(scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), name=name)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        normed, size = norm("pre_self_attention_layer_norm")(x), (HEADS, WIDTH // HEADS)

        def project(name):
            init = named("embed", "heads", "kv")
            return nn.DenseGeneral(size, use_bias=False, kernel_init=init, name=name)(normed)

        mixed = nn.dot_product_attention(project("query"), project("key"), project("value"), mask=mask)
        out = nn.DenseGeneral(WIDTH, (-2, -1), use_bias=False, kernel_init=named("heads", "kv", "embed"), name="out")
        x = x + out(mixed)
        hidden = norm("post_self_attention_layer_norm")(x)
        hidden = nn.Dense(HIDDEN, use_bias=False, kernel_init=named("embed", "mlp"), name="wi_0")(hidden)
        return x + nn.Dense(WIDTH, use_bias=False, kernel_init=named("mlp", "embed"), name="wo")(nn.gelu(hidden)), None


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(SYMBOLS, WIDTH, embedding_init=named("vocab", "embed"), name="token_embedder")
        places = nn.Embed(LENGTH, WIDTH, embedding_init=named("norm", "embed"), name="position_embedder")
        x = embed(tokens) + places(jnp.arange(LENGTH))
        scanned = nn.scan(
            Layer,
            variable_axes={"params": 1},  # MaxText's default: the layers are the second axis
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scanned(name="layers")(x, nn.make_causal_mask(tokens))
        x = norm("decoder_norm")(x)
        return nn.Dense(SYMBOLS, use_bias=False, kernel_init=named("embed", "vocab"), name="logits_dense")(x)


def devices():
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)


def born(tx, key):
    """The training state, divided over the mesh of the context, which never exists whole."""
    model, example = Decoder(), jnp.zeros((1, LENGTH), jnp.int32)

    def make(key):
        params = model.init(key, example)["params"]
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    names = nn.get_partition_spec(jax.eval_shape(make, key))
    shardings = nn.logical_to_mesh_sharding(names, jax.sharding.get_mesh(), RULES)
    return jax.jit(lambda key: nn.unbox(make(key)), out_shardings=shardings)(key), shardings


def data(steps, seed):
    """Each symbol is followed by its successor in a fixed permutation, or one time in five by any."""
    random = np.random.default_rng(seed)
    following, text = np.random.default_rng(0).permutation(SYMBOLS), [random.integers(SYMBOLS, size=(steps, BATCH))]
    for _ in range(LENGTH):
        surprise = random.random((steps, BATCH)) < 0.2
        text.append(np.where(surprise, random.integers(SYMBOLS, size=(steps, BATCH)), following[text[-1]]))
    return np.stack(text, axis=-1).astype(np.int32)


def train(tx, steps=STEPS, seed=0):
    mesh = devices()
    with jax.set_mesh(mesh):
        state, shardings = born(tx, jax.random.key(seed))

        def step(state, text):
            def loss(params):
                logits = state.apply_fn({"params": params}, text[:, :-1])
                return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean()

            value, grads = jax.value_and_grad(loss)(state.params)
            return state.apply_gradients(grads=grads), value

        rows = NamedSharding(mesh, P("fsdp"))
        step = jax.jit(step, in_shardings=(shardings, rows), out_shardings=(shardings, None), donate_argnums=0)
        losses = []
        for text in data(steps, seed):
            state, value = step(state, jax.device_put(text, rows))
            losses.append(float(value))
    return losses


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    print(train(optax.adamw(RATE))[-1])
    print(train(precond.shampoo(RATE, weight_decay=1e-4, **OPTIONS))[-1])  # the line that changes
