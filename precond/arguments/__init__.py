"""Check a user's arguments, explain mistakes in them, and print them in one line. This is floor 0 of the library."""

from precond.arguments.can_be_tried import can_be_tried
from precond.arguments.check_idle import check_idle
from precond.arguments.checks import (
    check_betas,
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
from precond.arguments.directions import (
    as_direction,
    check_direction,
    check_optimizer,
    check_signs,
    refuse_optimizers,
)
from precond.arguments.functions import called, check_function
from precond.arguments.missing_argument_error import MissingArgumentError
from precond.arguments.remembered import remembered
from precond.arguments.shown import is_function, made, maker, shown
from precond.arguments.sign_of import sign_of
from precond.arguments.static_args import static_args
from precond.arguments.user_trees import (
    check_arrays,
    check_keys,
    check_known,
    check_state,
    check_trees,
    check_values,
    fitting_mask,
    is_state,
)
from precond.arguments.whose import known_states

__all__ = [
    "Described",
    "MissingArgumentError",
    "as_direction",
    "called",
    "can_be_tried",
    "check_arrays",
    "check_betas",
    "check_bound",
    "check_choice",
    "check_decay",
    "check_direction",
    "check_flag",
    "check_floating",
    "check_function",
    "check_idle",
    "check_keys",
    "check_known",
    "check_mask",
    "check_number",
    "check_optimizer",
    "check_part",
    "check_rate",
    "check_signs",
    "check_state",
    "check_transformation",
    "check_trees",
    "check_values",
    "check_whole",
    "described",
    "fitting_mask",
    "is_function",
    "is_state",
    "known_states",
    "made",
    "maker",
    "refuse_optimizers",
    "remembered",
    "shown",
    "sign_of",
    "static_args",
]
