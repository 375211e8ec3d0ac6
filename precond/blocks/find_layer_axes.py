"""Find the axes along which layers are stacked, from the shapes in a module."""

from collections.abc import Iterator, Mapping

from precond.blocks.adapter_of import adapter_of, pair_of
from precond.blocks.parameter_names import STACKS, is_norm, is_table

__all__ = ["find_layer_axes"]

Parts = tuple[str, ...]
Shapes = Mapping[Parts, tuple[int, ...]]

_BIAS_OF = {"kernel": "bias", "weight": "bias", "w": "b"}


def find_layer_axes(shapes: Shapes) -> dict[Parts, tuple[int, ...]]:
    """Find the axes along which the layers of every parameter are stacked, from the shapes of its neighbours.

    Three things show that a module is a stack of layers, as `nn.scan`, `nnx.vmap` and MaxText make it. One is a norm
    whose scale has two axes. The second is a bare array of two axes with the name of a norm, in a module that is called
    `layers`, `blocks` or `stack`. The third is a bias that shares an axis with its kernel, but not one of the
    kernel's outputs. The stack is then the outermost module in which every parameter has this axis; tables of tokens
    and positions may lack it, because layers can share them. Axes 0, 1 and the last one are tried, and a stack of
    stacks is found one axis after the other.

    Args:
      shapes: the shapes of the parameters, by the parts of their paths.

    Returns:
      The axes by the same paths; an empty tuple if a parameter is not stacked.

    Examples:
      >>> found = find_layer_axes(
      ...     {
      ...         ("layers", "mlp", "kernel"): (64, 6, 128),
      ...         ("layers", "norm", "scale"): (64, 6),
      ...         ("head", "kernel"): (64, 10),
      ...     }
      ... )
      >>> found["layers", "mlp", "kernel"], found["head", "kernel"]
      ((1,), ())
    """
    left = {parts: list(range(len(shape))) for parts, shape in shapes.items()}
    found: dict[Parts, list[int]] = {parts: [] for parts in shapes}
    while stacks := _stacks({parts: tuple(shapes[parts][a] for a in axes) for parts, axes in left.items()}):
        for parts, axes in left.items():
            # An axis that counts from the end is one of the axes that are left.
            for axis, length in [stack for module, stack in stacks.items() if _within(parts, module)][:1]:
                if -len(axes) <= axis < len(axes) and shapes[parts][axes[axis]] == length:
                    found[parts].append(axes.pop(axis))
    return {parts: tuple(sorted(axes)) for parts, axes in found.items()}


def _within(parts: Parts, module: Parts) -> bool:
    return parts[: len(module)] == module


def _stacks(shapes: Shapes) -> dict[Parts, tuple[int, int]]:
    """Return the outermost modules that are stacks of layers, and the axis along which each is one with its length."""
    stacks: dict[Parts, tuple[int, int]] = {}
    modules: dict[Parts, dict[Parts, tuple[int, ...]]] = {}
    for parts, shape in shapes.items():
        for length in range(len(parts)):
            modules.setdefault(parts[:length], {})[parts] = shape
    for parts, axes in _witnesses(shapes):
        if any(_within(parts, stack) for stack in stacks):
            continue
        found = [(_outermost(modules, parts[:-1], axis), shapes[parts][axis], axis) for axis in axes]
        if reached := [(length, size, axis < 0, axis) for length, size, axis in found if length is not None]:
            # Take the axis that more of the tree shares. If both reach as far, take the shorter: there are fewer layers
            # than channels.
            length, size, _, axis = min(reached)
            stacks = {other: stack for other, stack in stacks.items() if not _within(other, parts[:length])}
            stacks[parts[:length]] = axis, size
    return stacks


def _outermost(modules: Mapping[Parts, Shapes], module: Parts, axis: int) -> int | None:
    """Return the length of the path of the outermost module around this one that is a stack along an axis."""
    if not _is_stack(modules[module], axis):
        return None
    length = len(module)
    while length and _is_stack(modules[module[: length - 1]], axis):
        length -= 1
    return length


def _is_stack(inside: Shapes, axis: int) -> bool:
    """Return whether all parameters of a module have this axis with one length, and each kernel two further axes.

    Tables may lack the axis. If all kernels have the same inputs, their last axis can be one of heads, and not of
    layers.
    """
    inside = {parts: shape for parts, shape in inside.items() if not is_table(parts)}
    lengths = {shape[axis] if axis < len(shape) else None for shape in inside.values()}
    least = {parts: 3 if parts[-1] in _BIAS_OF and not is_norm(parts) else 1 for parts in inside}
    if axis < 0 and len({inside[parts][:1] for parts, rank in least.items() if rank == 3}) == 1:
        return False
    return len(lengths) == 1 and None not in lengths and all(len(inside[p]) >= n for p, n in least.items())


def _witnesses(shapes: Shapes) -> Iterator[tuple[Parts, list[int]]]:
    """Return the parameters that show that their module is stacked, and the axes along which it may be."""
    for parts, shape in shapes.items():
        module, name = parts[:-1], parts[-1]
        tried: list[int] = []
        if name == "scale" or (is_norm(parts) and name in ("weight", "kernel")):
            # An axis of length 1 can be that of one layer if there are two axes. In an array of more axes it usually
            # broadcasts.
            tried = [axis for axis in (0, 1, -1) if shape[axis] > 1 or len(shape) == 2] if len(shape) > 1 else []
        elif STACKS.intersection(module[-1:]) and len(shape) == 2 and is_norm((*module, name, "scale")):
            # A bare array for all layers, such as layers/attn_norm, has the name that a module would have.
            tried = [0] if shape[0] > 1 else []
        elif name in _BIAS_OF or name.endswith("_w"):
            bias = shapes.get((*module, _BIAS_OF.get(name, f"{name[:-1]}b")), ())
            tried = [axis for axis in (0, 1, -1) if _shares(name, shape, bias, axis)]
            if name == "weight" and 0 in tried:  # [members, outputs, inputs], of which there may be more members
                tried = [0]
        if not tried and (pair := _pair_of_layers(parts)):
            a, b = shapes.get(pair[0], ()), shapes.get(pair[1], ())
            tried = [axis for axis in (0, 1, -1) if _are_adapters(a, b, axis)]
        if tried:
            yield parts, tried


def _pair_of_layers(parts: Parts) -> tuple[Parts, Parts] | None:
    """Return the paths of a pair of LoRA, unless it belongs to an einsum, whose parts have pairs of their own."""
    return pair_of(parts) if adapter_of(parts) and not any("einsum" in part for part in parts[-3:]) else None


def _are_adapters(a: tuple[int, ...], b: tuple[int, ...], axis: int) -> bool:
    """Return whether these are stacked pairs of LoRA: without the axis of the layers, [.., r] and [r, ..]."""
    if min(len(a), len(b)) < 3 or a[axis] != b[axis]:
        return False
    return _without(a, axis)[-1] == _without(b, axis)[0]


def _shares(name: str, kernel: tuple[int, ...], bias: tuple[int, ...], axis: int) -> bool:
    """Return whether a bias has one axis more than its kernel's outputs, and the kernel has this axis, too."""
    while name == "weight" and bias and bias[-1] == 1:
        bias = bias[:-1]  # Equinox: of a convolution, [out, 1, 1]
    if len(bias) < 2 or len(bias) > len(kernel) or kernel[axis] != bias[axis]:
        return False

    def is_of(bias: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
        return kernel[:1] == bias if name == "weight" else kernel[-len(bias) :] == bias

    return not is_of(bias, kernel) and is_of(_without(bias, axis), _without(kernel, axis))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(d for i, d in enumerate(shape) if i != axis % len(shape))
