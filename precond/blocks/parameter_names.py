"""Tell from the name of a parameter whether it is a matrix, and what the kernel of its module is."""

import functools
import re
from collections.abc import Mapping

__all__ = [
    "STACKS",
    "fused",
    "is_convolution",
    "is_depthwise",
    "is_depthwise_filter",
    "is_elementwise",
    "is_linear",
    "is_norm",
    "is_single",
    "is_table",
    "is_vocabulary",
    "is_window",
    "module_of",
]


def _named(*names: str) -> re.Pattern[str]:
    """Make a pattern of words, whole or at the end of a longer name: `pos_embedding` is an `embedding`."""
    return re.compile(rf"(.*_)?({'|'.join(' '.join(names).split())})", re.I)


_VECTORS = _named(
    "bias bias_.* biases soft_prompts? scale offset gamma beta sinks? alpha decay cls tokens? probe latents?",
    "latent_arrays? freqs codebooks? gain ls_?[12]? temperature lambda_.* skip_weights?",
)
# Names that say it only if nothing stands before them, and in capitals only if they are so here.
_EXACTLY = re.compile(r"g|b\d+|b_(in|out|up|down|[qkvohQKVO])|b[qkvo]|b?qkv_?b|bqkv|D|E|prompts?|prefix|queries")
_ROWS_OF_TABLES = "(user|item|word|entity)_(factors|vectors)|(object|latent|learned)_quer(y|ies)"
_TABLES = _named(
    "embed embeddings? embd embs? embeds embed(ding)?_(table|matrix|w|weights?) table w_e w_pos wte wpe pe pos",
    f"sinusoids? {_ROWS_OF_TABLES}",
    "rel(ative)?_pos.* rpb positions?",
    "pos(ition|itional)?_?(embs?|embd|embed|embeddings?|enc|encodings?)(_.*)?",
)
_TABLES_OF_WEIGHTS = re.compile(
    r"(?!.*(patch|time|proj|linear))((.*_)?(embed|embeddings?|embedder|embd|embs?)(_.*)?|wte|wpe|shared|lookup|lut|vocab|"
    r"tokens?|(.*_)?rel(ative)?_.*bias|(.*_)?table|(.*_)?"
    rf"({_ROWS_OF_TABLES}))",
    re.I,
)
# State space models and RWKV have one number for each channel and state, or for each head and channel.
_STATES = re.compile(
    r"a_param|A_.*|log_.*|.*_log|dt|dt_bias|inv_dt|Lambda.*|time_(mix.*|decay|first|faaaa|maa(_.)?)|r_k"
)
_OUTPUTS = _named(
    "lm_?head logits?(_?(dense|proj|head))? unembed(ding)? output_embeddings? embed_out w_u",
    "vocab_?(proj(ection)?|head|out(puts?)?)",
)
_NORM = re.compile(r"(?!.*(proj|linear|dense|conv)).*(norm|(^|_)[lbg]n(_|\d|$))", re.I)
_DEPTHWISE = _named("depthwise.* dw_?conv.* dw conv_?1d temporal_conv(1d)?")
_LINEAR = _named(
    ".*dense .*linear lin mlp ffn? fc c_fc c_proj proj (up|down|gate|in|x|dt|k|q|v|o)_proj wi wo w up down gate",
    "intermediate head router experts? w?q_a w?kv_a in h[irnfgoz] i[irnfgoz]",
)
STACKS = {"layers", "blocks", "stack", "stacked"}
"""The names of modules that hold the layers of a model, in a list or as a stack."""

# Names of kernels with several matrices side by side, by the number of matrices.
_FUSED = {
    3: _named("w?qkv to_qkv qkv_(proj|attn|dense) c_attn in_proj in_proj_weight query_key_value"),
    2: _named("(to_)?kv (to_)?kv_proj key_value gate_up gate_up_proj"),
}
_WIDEST = 11  # the longest side of a window; the first convolution of AlexNet has it
_TABLES_OF_KERNELS = re.compile(r"wte|wpe|embed_tokens|tok(en)?_embed(ding|der)?s?", re.I)  # nothing else is called so


def module_of(parts: tuple[str, ...]) -> str:
    """Return the name of the module that holds a parameter, without numbers: `Dense_0` is a `Dense`.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> module_of(("mlp", "Dense_0", "kernel")), module_of(("mlp", "layers", "0", "weight"))
      ('Dense', 'layers')
    """
    names = [re.sub(r"_?\d+$", "", part) for part in parts[:-1]]
    return next((name for name in reversed(names) if name), "")


@functools.cache
def is_elementwise(parts: tuple[str, ...]) -> bool:
    """Return whether a parameter is multiplied or added entry by entry: biases, norms, decays, tables of positions.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> [
      ...     is_elementwise(("mlp", name))
      ...     for name in ("wi_0_bias", "pos_embedding", "A_log", "wi_0")
      ... ]
      [True, True, True, False]
    """
    name = parts[-1]
    if name in ("kernel", "weight", "w"):
        return is_norm(parts)
    patterns = (_VECTORS, _TABLES, _STATES, _EXACTLY)
    return name.startswith("bias_") or _NORM.match(name) is not None or any(p.fullmatch(name) for p in patterns)


def is_single(name: str, siblings: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a leaf is one vector a layer, as its short name says, or its siblings do, which have more axes.

    The shapes of siblings are used only for a stack of layers, where all of them have the axis of the layers in front,
    and there are fewer layers than channels.

    Args:
      name: the name of the leaf in its module.
      siblings: the shapes of all leaves of the module, by their names.

    Examples:
      >>> (
      ...     is_single("1", {"0": (6, 64, 16), "1": (6, 16)}),
      ...     is_single("wo", {"wq": (64, 4, 16), "wo": (64, 64)}),
      ...     is_single("router", {"up": (64, 128, 8), "router": (64, 8)}),
      ... )
      (True, False, False)
    """
    own = {key: shape for key, shape in siblings.items() if "/" not in key}
    shape = own.get(name, ())
    if len({s[:1] for s in own.values()}) > 1 or len(shape) < 2 or name in ("kernel", "weight", "w"):
        return False
    if _LINEAR.fullmatch(name) is not None or re.fullmatch(".*(_w|kernel|weights?)", name) is not None:
        return False
    named = is_elementwise((name,)) or re.fullmatch(r"b[a-z]?\d*|b_.*|.*_b", name) is not None
    return any(
        len(s) > max(len(shape), 2) and shape[0] < s[1] and s[-(len(shape) - 1) :] == shape[1:]
        for s in own.values()
        if len(shape) == 2 or named
    )


@functools.cache
def is_norm(parts: tuple[str, ...]) -> bool:
    """Return whether the name of the module says that it normalizes.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> is_norm(("ln_1", "weight")), is_norm(("norm_proj", "kernel"))
      (True, False)
    """
    return len(parts) > 1 and _NORM.match(module_of(parts)) is not None


@functools.cache
def is_vocabulary(parts: tuple[str, ...]) -> bool:
    """Return whether a matrix has an axis of tokens: an embedding, or the outputs of a language model.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> (
      ...     is_vocabulary(("wte", "weight")),
      ...     is_vocabulary(("lm_head", "kernel")),
      ...     is_vocabulary(("embedding", "kernel")),
      ... )
      (True, True, False)
    """
    name, module = parts[-1], module_of(parts)
    if name in ("weight", "w") and _TABLES_OF_WEIGHTS.fullmatch(module):
        return True
    if parts[-3:-1] == ("predictions", "decoder"):  # the name in BERT
        return True
    if name == "kernel" and _TABLES_OF_KERNELS.fullmatch(module):
        return True
    # In Flax an `embedding/kernel` is a convolution of patches or a dense layer, and a table is called `embedding`.
    return _OUTPUTS.fullmatch(module if name in ("kernel", "weight", "w") else name) is not None


@functools.cache
def is_table(parts: tuple[str, ...]) -> bool:
    """Return whether a parameter is a table of tokens or of positions, or the outputs of a language model.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> [
      ...     is_table(("relpos", "rel_embedding")),
      ...     is_table(("wte", "weight")),
      ...     is_table(("norm", "scale")),
      ... ]
      [True, True, False]
    """
    return _TABLES.fullmatch(parts[-1]) is not None or is_vocabulary(parts)


def is_convolution(parts: tuple[str, ...]) -> bool:
    """Return whether the name of the module says that it is a convolution.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> is_convolution(("Conv_0", "kernel"))
      True
    """
    return "conv" in module_of(parts).lower()


def is_window(shape: tuple[int, ...]) -> bool:
    """Return whether four axes begin with the sides of a small square window, such as 3 by 3.

    Args:
      shape: the shape of a parameter.

    Examples:
      >>> is_window((3, 3, 64, 128)), is_window((12, 12, 64, 768))
      (True, False)
    """
    return len(shape) == 4 and shape[0] == shape[1] and shape[0] % 2 == 1 and shape[0] <= _WIDEST


def is_depthwise(parts: tuple[str, ...], outputs: int) -> bool:
    """Return whether a convolution with one input channel filters every channel by itself.

    The first convolution on grey images has one input channel, too. The name decides; without such a name, 64 output
    channels or more count as a filter for each.

    Args:
      parts: the parts of the parameter's path.
      outputs: the number of output channels.

    Examples:
      >>> is_depthwise(("dwconv", "kernel"), 32), is_depthwise(("Conv_0", "kernel"), 32)
      (True, False)
    """
    return outputs >= 64 or any(_DEPTHWISE.fullmatch(name) for name in (module_of(parts), parts[-1]))


def is_depthwise_filter(parts: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    """Return whether a parameter of two axes is a window for every channel, without an axis of inputs.

    Args:
      parts: the parts of the parameter's path.
      shape: the shape of the parameter.

    Examples:
      >>> [
      ...     is_depthwise_filter((name, "kernel"), (4, 96))
      ...     for name in ("conv1d", "conv_1d", "pwconv1", "dense")
      ... ]
      [True, True, False, False]
    """
    name = module_of(parts)
    return _DEPTHWISE.fullmatch(name) is not None and 2 * min(shape) <= max(shape) and min(shape) <= _WIDEST


def is_linear(parts: tuple[str, ...]) -> bool:
    """Return whether the name of the module says that its kernel is one matrix for each layer.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> is_linear(("mlp", "up_proj", "kernel")), is_linear(("conv_proj", "kernel"))
      (True, False)
    """
    is_stack = len(parts) > 1 and parts[-2] in STACKS  # a list of layers has a number in this place
    return not is_convolution(parts) and (is_stack or _LINEAR.fullmatch(module_of(parts)) is not None)


@functools.cache
def fused(parts: tuple[str, ...]) -> int | None:
    """Return the number of matrices that are side by side in a kernel, as its name says, or None.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> fused(("attention", "qkv", "kernel")), fused(("attention", "query", "kernel"))
      (3, None)
    """
    names = (parts[-1], module_of(parts))
    return next((n for n, pattern in _FUSED.items() if any(pattern.fullmatch(name) for name in names)), None)
