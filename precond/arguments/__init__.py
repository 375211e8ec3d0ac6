"""What a user typed: checked, explained where it is wrong, and printed in one line. Floor 0 of the library."""

from precond.arguments.check_idle import check_idle
from precond.arguments.checks import (
    check_bound,
    check_choice,
    check_decay,
    check_flag,
    check_floating,
    check_mask,
    check_number,
    check_part,
    check_rate,
    check_transformation,
    check_whole,
)
from precond.arguments.described import Described, described
from precond.arguments.directions import along, check_against, check_along, check_headings, heading, refuse_optimizers
from precond.arguments.functions import called, check_function
from precond.arguments.shown import is_function, made, maker, shown
from precond.arguments.static_args import static_args
from precond.arguments.user_trees import (
    check_arrays,
    check_keys,
    check_state,
    check_trees,
    check_values,
    fitting_mask,
    is_state,
)
from precond.arguments.whose import known_states

__all__ = [
    "Described",
    "along",
    "called",
    "check_against",
    "check_along",
    "check_arrays",
    "check_bound",
    "check_choice",
    "check_decay",
    "check_flag",
    "check_floating",
    "check_function",
    "check_headings",
    "check_idle",
    "check_keys",
    "check_mask",
    "check_number",
    "check_part",
    "check_rate",
    "check_state",
    "check_transformation",
    "check_trees",
    "check_values",
    "check_whole",
    "described",
    "fitting_mask",
    "heading",
    "is_function",
    "is_state",
    "known_states",
    "made",
    "maker",
    "refuse_optimizers",
    "shown",
    "static_args",
]
