"""Rules of modules, checked before a model is looked at."""

from collections.abc import Mapping
from typing import Any

from precond.arguments import shown

__all__ = ["check_rules"]


def check_rules(rules: Mapping[Any, Any] | None) -> None:
    """Raise unless rules are functions by the types of modules.

    Args:
      rules: by type; None stands for an empty set.

    Raises:
      TypeError: for a key that is not a type, such as its name, and for a rule that is not a function.

    Examples:
      >>> check_rules({"Dense": print})
      Traceback (most recent call last):
      TypeError: rules= has the key 'Dense', where the type of a module belongs, such as nn.Dense.
    """
    for key, rule in ({} if rules is None else rules).items():
        if not isinstance(key, type):
            raise TypeError(f"rules= has the key {shown(key)}, where the type of a module belongs, such as nn.Dense.")
        if not callable(rule) or isinstance(rule, type):
            raise TypeError(f"rules= has {shown(rule)} for {key.__name__}, where a function of a module belongs.")
