"""Check rules of modules before a model is looked at."""

from collections.abc import Callable, Mapping
from typing import Any

from precond.arguments import called, shown
from precond.layers.assemble import LayerSpec

__all__ = ["check_rules", "spec_by"]


def check_rules(rules: Mapping[Any, Any] | None) -> None:
    """Raise unless rules are functions by the types of modules.

    Args:
      rules: the rules by type; None is the same as no rules.

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


def spec_by(rule: Callable[..., Any], module: Any, *args: Any) -> LayerSpec:
    """Return what a rule finds in a module.

    Args:
      rule: the rule of the module's type.
      module: a module.
      *args: what else the rule is given.

    Raises:
      TypeError: for a rule that takes other arguments, or that finds something else.

    Examples:
      >>> spec_by(lambda module: None, 3)
      Traceback (most recent call last):
      TypeError: rules= has for int a rule that gave None: must give a precond.layers.LayerSpec.
    """
    spec = called(f"rules[{type(module).__name__}]", rule, module, *args)
    if not isinstance(spec, LayerSpec):
        raise TypeError(
            f"rules= has for {type(module).__name__} a rule that gave {shown(spec)}: "
            f"must give a precond.layers.LayerSpec."
        )
    return spec
