"""Make the shapes of models that are known by a few numbers."""

from collections.abc import Callable
from typing import Any

import jax

from precond.arguments import check_whole, described

__all__ = ["gpt", "llama", "moe", "vit"]

Tree = dict[str, Any]
Array = Callable[..., jax.ShapeDtypeStruct]


@described()
def gpt(
    width: int,
    layers: int,
    *,
    vocabulary: int = 50304,
    context: int = 1024,
    hidden: int | None = None,
    dtype: jax.typing.DTypeLike = "float32",
) -> Tree:
    """Make the shapes of a GPT's parameters: 12 width² in every layer, and embeddings, which are also its outputs.

    Args:
      width: the width of the residual stream.
      layers: each has attention and a perceptron.
      vocabulary: tokens; the default is GPT-2's, rounded up to a multiple of 64.
      context: positions.
      hidden: width of the perceptron; None is four times the width.
      dtype: the dtype of the parameters.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError, TypeError: for a number that is not a positive integer.

    Reference:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019.

    Examples:
      >>> import math
      >>> sum(math.prod(x.shape) for x in jax.tree.leaves(gpt(768, 12, vocabulary=50257)))
      124439808
    """
    hidden = 4 * width if hidden is None else hidden
    _check(width=width, layers=layers, vocabulary=vocabulary, context=context, hidden=hidden)
    array = _arrays(dtype)
    embeddings = {"tokens": {"embedding": array(vocabulary, width)}, "positions": {"embedding": array(context, width)}}
    blocks = {f"layer_{i}": _biased_block(array, width, hidden) for i in range(layers)}
    return embeddings | blocks | {"norm": _norm(array, width)}


@described()
def llama(
    width: int,
    layers: int,
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    vocabulary: int = 128256,
    dtype: jax.typing.DTypeLike = "float32",
) -> Tree:
    """Make the shapes of a Llama's parameters: no biases, a gated perceptron, and fewer heads for keys and values.

    Args:
      width: the width of the residual stream.
      layers: each has attention and a gated perceptron.
      heads: the number of attention heads; None is one for each 128 of the width, as in Llama 3.
      kv_heads: heads of keys and values; None is 8, or all heads where there are fewer.
      hidden: width of the perceptron; None is 3.5 times the width, as in Llama 3.
      vocabulary: tokens; the default is Llama 3's.
      dtype: the dtype of the parameters.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError, TypeError: for a number that is not a positive integer, or heads that do not divide.

    Reference:
      Grattafiori et al., The Llama 3 Herd of Models, 2024.

    Examples:
      >>> import math
      >>> sum(math.prod(x.shape) for x in jax.tree.leaves(llama(4096, 32)))  # Llama 3 8B
      8030261248
    """
    hidden = 7 * width // 2 if hidden is None else hidden
    _check(width=width, layers=layers, hidden=hidden, vocabulary=vocabulary)
    array, keys = _arrays(dtype), _key_width(width, heads, kv_heads)

    def block() -> Tree:
        up = {name: _dense(array, width, hidden) for name in ("gate", "up")}
        return _gated_attention(array, width, keys) | up | {"down": _dense(array, hidden, width)}

    return _language_model(array, width, vocabulary, {f"layer_{i}": block() for i in range(layers)})


@described()
def moe(
    width: int,
    layers: int,
    *,
    experts: int = 8,
    heads: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    vocabulary: int = 32000,
    dtype: jax.typing.DTypeLike = "float32",
) -> Tree:
    """Make the shapes of a mixture of experts: a Llama whose perceptrons are several, with a router before them.

    The experts of a layer are one array `[experts, inputs, outputs]`.

    Args:
      width: the width of the residual stream.
      layers: each has attention, a router and experts.
      experts: the number of experts in each layer.
      heads: the number of attention heads; None is one for each 128 of the width.
      kv_heads: heads of keys and values; None is 8, or all heads where there are fewer.
      hidden: width of one expert; None is 3.5 times the width, as in Mixtral.
      vocabulary: tokens; the default is Mixtral's.
      dtype: the dtype of the parameters.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError, TypeError: for a number that is not a positive integer, or heads that do not divide.

    Reference:
      Jiang et al., Mixtral of Experts, 2024.

    Examples:
      >>> import math
      >>> sum(math.prod(x.shape) for x in jax.tree.leaves(moe(4096, 32)))  # Mixtral 8x7B
      46702792704
    """
    hidden = 7 * width // 2 if hidden is None else hidden
    _check(width=width, layers=layers, experts=experts, hidden=hidden, vocabulary=vocabulary)
    array, keys = _arrays(dtype), _key_width(width, heads, kv_heads)

    def block() -> Tree:
        up = {name: {"weight": array(experts, width, hidden)} for name in ("gate", "up")}
        perceptrons = up | {"down": {"weight": array(experts, hidden, width)}}
        return _gated_attention(array, width, keys) | {"router": _dense(array, width, experts), "experts": perceptrons}

    return _language_model(array, width, vocabulary, {f"layer_{i}": block() for i in range(layers)})


@described()
def vit(
    width: int,
    layers: int,
    *,
    hidden: int | None = None,
    image: int = 224,
    patch: int = 16,
    classes: int = 1000,
    dtype: jax.typing.DTypeLike = "float32",
) -> Tree:
    """Make the shapes of a Vision Transformer's parameters.

    Args:
      width: the width of the residual stream.
      layers: each has attention and a perceptron.
      hidden: width of the perceptron; None is four times the width.
      image: pixels of one side of an image, which has three channels.
      patch: pixels of one side of a patch.
      classes: outputs.
      dtype: the dtype of the parameters.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError, TypeError: for a number that is not a positive integer, or patches that do not tile the image.

    Reference:
      Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.

    Examples:
      >>> import math
      >>> sum(math.prod(x.shape) for x in jax.tree.leaves(vit(768, 12)))  # ViT-B/16
      86567656
    """
    hidden = 4 * width if hidden is None else hidden
    _check(width=width, layers=layers, hidden=hidden, image=image, patch=patch, classes=classes)
    if image % patch:
        raise ValueError(f"patch={patch}: patches of this side do not tile an image with a side of {image} pixels.")
    array, patches = _arrays(dtype), (image // patch) ** 2
    inputs = {
        "patches": {"kernel": array(patch, patch, 3, width), "bias": array(width)},
        "class_token": array(width),
        "positions": {"embedding": array(patches + 1, width)},
    }
    blocks = {f"layer_{i}": _biased_block(array, width, hidden) for i in range(layers)}
    return inputs | blocks | {"norm": _norm(array, width), "head": _dense(array, width, classes, bias=True)}


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        check_whole(name, value, least=1)


def _arrays(dtype: jax.typing.DTypeLike) -> Array:
    return lambda *shape: jax.ShapeDtypeStruct(shape, dtype)


def _dense(array: Array, inputs: int, outputs: int, bias: bool = False) -> Tree:
    return {"kernel": array(inputs, outputs)} | ({"bias": array(outputs)} if bias else {})


def _norm(array: Array, width: int) -> Tree:
    return {"scale": array(width), "bias": array(width)}


def _biased_block(array: Array, width: int, hidden: int) -> Tree:
    """Return one layer of a GPT or a Vision Transformer."""
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, hidden), "down": (hidden, width)}
    dense = {name: _dense(array, *size, bias=True) for name, size in sizes.items()}
    return {"norm_1": _norm(array, width), "norm_2": _norm(array, width)} | dense


def _key_width(width: int, heads: int | None, kv_heads: int | None) -> int:
    """Return the width of all keys of a layer."""
    heads = max(1, width // 128) if heads is None else heads
    kv_heads = min(8, heads) if kv_heads is None else kv_heads
    _check(heads=heads, kv_heads=kv_heads)
    if width % heads:
        raise ValueError(f"heads={heads}: this number of heads does not divide width={width}.")
    if heads % kv_heads:
        raise ValueError(f"kv_heads={kv_heads}: this number does not divide heads={heads}.")
    return width // heads * kv_heads


def _gated_attention(array: Array, width: int, keys: int) -> Tree:
    """Return the attention and the norms of one layer of a Llama."""
    norms = {name: {"scale": array(width)} for name in ("norm_1", "norm_2")}
    outputs = {"q_proj": width, "k_proj": keys, "v_proj": keys, "out": width}
    return norms | {name: _dense(array, width, n) for name, n in outputs.items()}


def _language_model(array: Array, width: int, vocabulary: int, blocks: Tree) -> Tree:
    """Put an embedding before layers, and a norm and a separate output head behind them."""
    head = {"norm": {"scale": array(width)}, "head": _dense(array, width, vocabulary)}
    return {"tokens": {"embedding": array(vocabulary, width)}} | blocks | head
