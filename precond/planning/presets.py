"""Shapes of models that are known by a few numbers."""

from typing import Any

import jax

from precond.arguments import check_whole

__all__ = ["gpt"]


def gpt(
    width: int,
    layers: int,
    *,
    vocabulary: int = 50304,
    context: int = 1024,
    hidden: int | None = None,
    dtype: jax.typing.DTypeLike = "float32",
) -> dict[str, Any]:
    """The shapes of a GPT's parameters: 12 width² in every layer, and its embeddings, which are also its outputs.

    Args:
      width: of the residual stream.
      layers: each with attention and a perceptron.
      vocabulary: tokens; the default is GPT-2's, to a multiple of 64.
      context: positions.
      hidden: of the perceptron; None is four times the width.
      dtype: of the parameters.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError, TypeError: for a number that is no positive integer.

    Reference:
      Radford et al., Language Models are Unsupervised Multitask Learners, 2019.

    Examples:
      >>> import math
      >>> sum(math.prod(x.shape) for x in jax.tree.leaves(gpt(768, 12, vocabulary=50257)))
      124439808
    """
    hidden = 4 * width if hidden is None else hidden
    for name, value in {"width": width, "layers": layers, "vocabulary": vocabulary, "context": context}.items():
        check_whole(name, value, least=1)
    check_whole("hidden", hidden, least=1)

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return {"kernel": array(inputs, outputs), "bias": array(outputs)}

    def layer() -> dict[str, Any]:
        norms = {name: {"scale": array(width), "bias": array(width)} for name in ("norm_1", "norm_2")}
        attention = {"qkv": dense(width, 3 * width), "out": dense(width, width)}
        return norms | attention | {"up": dense(width, hidden), "down": dense(hidden, width)}

    embeddings = {"tokens": {"embedding": array(vocabulary, width)}, "positions": {"embedding": array(context, width)}}
    blocks = {f"layer_{i}": layer() for i in range(layers)}
    return embeddings | blocks | {"norm": {"scale": array(width), "bias": array(width)}}
