"""Tell from the name of a parameter whether it is an adapter of LoRA, and where the other one of its pair is."""

import functools
import re

__all__ = ["adapter_of", "pair_of"]

_LORA = re.compile(r"((?:.*_)?(?i:lora)_?)([aAbB]|down|up)((?i:_(?:kernel|weight|w))?)")
_LETTER = re.compile(r"()([aAbB])()")
_FIRST = {"a": "b", "A": "B", "down": "up"}
_LETTERS = {**_FIRST, **{second: first for first, second in _FIRST.items()}}


@functools.cache
def adapter_of(parts: tuple[str, ...]) -> str | None:
    """Return the name of an adapter of LoRA, or None for another parameter.

    Args:
      parts: the parts of the parameter's path.

    Examples:
      >>> (
      ...     adapter_of(("query", "lora_a")),
      ...     adapter_of(("query", "lora_B", "weight")),
      ...     adapter_of(("query", "kernel")),
      ... )
      ('lora_a', 'lora_B', None)
    """
    return next((name for name in parts[-3:] if _LORA.fullmatch(name)), None)


@functools.cache
def pair_of(parts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the paths of both adapters of a pair, the first of them first; None for any other parameter.

    A parameter that is called just `a` or `b` may have a pair, too.

    Args:
      parts: the parts of the path of one of them.

    Examples:
      >>> pair_of(("query", "lora_B", "weight"))
      (('query', 'lora_A', 'weight'), ('query', 'lora_B', 'weight'))
      >>> pair_of(("query", "a")), pair_of(("query", "kernel"))
      ((('query', 'a'), ('query', 'b')), None)
    """
    name = adapter_of(parts) or parts[-1]
    found = _LORA.fullmatch(name) or _LETTER.fullmatch(name)
    if found is None:
        return None
    before, letter, behind = found.groups()
    other = before + _LETTERS[letter] + behind
    swapped = tuple(other if part == name else part for part in parts[-3:])
    partner = (*parts[:-3], *swapped)
    return (parts, partner) if letter in _FIRST else (partner, parts)
