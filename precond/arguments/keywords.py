"""Tell which argument of this library has the meaning of an argument of another library."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["advice_for", "check_call"]

# In each line names of other libraries; then, by arguments that a function may have, what to write there. The first
# argument that it has decides; the empty name matches every function.
_TABLE: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "lr eta step_size stepsize alpha learningrate learning_rates max_lr rate lrate scheduler lr_schedule",
        {"learning_rate": "learning_rate=", "schedule": "schedule="},
    ),
    (
        "betas",
        {"b1": "b1= and b2=, two numbers", "beta1": "beta1= and beta2=, two numbers", "decay": "b1= and decay="},
    ),
    (
        "b1 beta1 beta_1 momentum mu momentum_decay beta rho gamma",
        {"b1": "b1=", "beta1": "beta1=", "betas": "betas=(b1, b2)"},
    ),
    (
        "b2 beta2 beta_2 shampoo_beta second_moment_decay statistics_decay factor_decay",
        {"b2": "b2=", "beta2": "beta2=", "betas": "betas=(b1, b2)", "decay": "decay="},
    ),
    ("beta3", {"": "b1= alone: there is one decay of the momentum"}),
    (
        "stat_decay cov_ema_decay curvature_ema ema_decay decay_rate",
        {"decay": "decay=", "b2": "b2="},
    ),
    (
        "eps_root",
        {"": "otherwise=optax.scale_by_adam(eps_root=..) for parameters without a view; matrices have none"},
    ),
    (
        "eps epsilon adam_epsilon adam_eps",
        {"eps": "eps=", "adam_eps": "adam_eps=", "epsilon": "epsilon=", "damping": "damping="},
    ),
    (
        "matrix_epsilon matrix_eps epsilon_matrix ridge ridge_epsilon initial_damping damping_value factor_damping",
        {"damping": "damping=", "epsilon": "epsilon=", "matrix_epsilon": "matrix_epsilon=", "eps": "eps="},
    ),
    (
        "precondition_frequency precond_freq precondition_freq preconditioning_compute_steps update_freq update_every "
        "preconditioner_update_every precond_update_freq frequency inverse_update_period curvature_update_period "
        "invert_every t_inv refresh_every statistics_compute_steps root_every update_frequency precondition_every "
        "preconditioning_interval",
        {
            "refresh": "refresh=precond.every(n)",
            "precondition_frequency": "precondition_frequency=",
            "preconditioning_compute_steps": "preconditioning_compute_steps=",
        },
    ),
    (
        "start_preconditioning_step start_precondition_step preconditioning_start warmup_steps num_burnin_steps "
        "cold_start_steps",
        {"refresh": "refresh=precond.every(n, start=..)", "start_preconditioning_step": "start_preconditioning_step="},
    ),
    (
        "max_preconditioner_dim max_precond_dim max_size_triangular max_size preconditioner_size blocksize "
        "block_size max_block_size dim_threshold skip_preconditioning_dim_size_gt",
        {
            "block_size": "block_size=",
            "max_preconditioner_dim": "max_preconditioner_dim=",
            "max_precond_dim": "max_precond_dim=",
        },
    ),
    (
        "graft_type grafting_type grafting grafting_config graft graft_to grafting_beta2",
        {
            "magnitude": "magnitude=, such as optax.scale_by_rms() or optax.identity()",
            "grafting": "grafting=",
            "": "nothing: this optimizer is not grafted",
        },
    ),
    (
        "nesterov use_nesterov",
        {
            "nesterov": "nesterov=",
            "momentum": "momentum=precond.transforms.nesterov(0.95) or optax.ema(0.95)",
            "": "nothing: put precond.transforms.nesterov(b1) into a chain of parts if you need it",
        },
    ),
    ("weight_decay_mask decay_mask wd_mask mask_fn", {"mask": "mask="}),
    ("wd l2 l2_reg weightdecay weight_decay_rate decay", {"weight_decay": "weight_decay="}),
    (
        "use_decoupled_weight_decay decoupled_weight_decay decoupled decouple",
        {
            "decoupled_weight_decay": "decoupled_weight_decay=",
            "": "nothing: weight decay is decoupled, as in AdamW. Put optax.add_decayed_weights(..) in front for L2",
        },
    ),
    (
        "exponent_override inv_root_override exponent_multiplier inverse_exponent_override exponent root_exponent",
        {"power": "power=, a share of 1: the exponent 4 of others is power=1/4"},
    ),
    (
        "best_effort_shape_interpretation merge_dims merge_small_dims use_merge_dims reshape precondition_1d "
        "memory_save_mode target_dimensionality merge_small_dims_block_size",
        {"views": "views=, such as precond.views.tensors(merge=4096)"},
    ),
    ("ns_steps num_ns_steps newton_schulz_steps", {"method": "method=precond.orthogonal.newton_schulz(..)"}),
    ("ns_coeffs ns_coefficients", {"method": "method=precond.orthogonal.newton_schulz(polynomials)"}),
    ("backend_steps", {"method": "method=precond.orthogonal.newton_schulz(..)"}),
    ("norm_constraint kl_clip clip kl_max step_norm_constraint kl_bound", {"bound": "bound="}),
    (
        "distributed_config axis_name batch_axis_name pmap_axis_name mesh_axis data_axis num_devices axes",
        {"axis": "axis=, the name of a mesh axis"},
    ),
    (
        "use_adaptive_damping adaptive_damping damping_schedule",
        {"damping": "damping=, and precond.transforms.levenberg_marquardt around the optimizer"},
    ),
    (
        "mu_dtype accumulator_dtype factor_matrix_dtype precision_dtype state_dtype dtype",
        {"": "nothing: moments and factors are float32 or wider"},
    ),
    ("tensordot_precision matmul_precision", {"precision": "precision=, such as precond.precision(..)"}),
    ("bias_correction use_bias_correction correct_bias debias", {"": "nothing: averages are free of the bias"}),
    ("num_grads ngrads window_size history rank m", {"window": "window="}),
    ("k_init topk sparsity k_percent", {"density": "density="}),
    ("num_replicas world_size batch_scale batch_size_ratio", {"scale": "scale="}),
    ("smoothing gain_smoothing", {"estimator": "estimator=, such as precond.large_batches.fairscale_gain(..)"}),
    ("optimizer_fn inner_optimizer base_optimizer optim", {"optimizer": "optimizer=", "": "nothing"}),
    ("adam_lr adamw_lr scalar_lr", {"adam_learning_rate": "adam_learning_rate="}),
    ("adam_betas adamw_betas", {"adam_b1": "adam_b1= and adam_b2=, two numbers"}),
    (
        "clip_norm clipnorm global_clipnorm max_grad_norm grad_clip gradient_clipping grad_clip_norm clip_threshold",
        {"": "optax.chain(optax.clip_by_global_norm(..), this optimizer)"},
    ),
    (
        "accum_steps gradient_accumulation_steps grad_accum_steps accumulate_grad_batches every_k_schedule",
        {"": "precond.accumulate(this optimizer, n) around it"},
    ),
    (
        "amsgrad foreach fused maximize capturable differentiable use_ema seed name process_group",
        {"": "nothing: this library works without such an argument"},
    ),
    ("params parameters param_groups", {"": "nothing: tx.init(params) takes the parameters"}),
)
_KNOWN = {word: instead for words, instead in _TABLE for word in words.split()}


def advice_for(name: str, parameters: Sequence[str]) -> str:
    """Return what to write in place of an argument that a function does not have.

    Args:
      name: the name of the argument.
      parameters: the names of those that it has.

    Examples:
      >>> advice_for("max_preconditioner_dim", ["learning_rate", "block_size"])
      'Write block_size=.'
      >>> advice_for("dampng", ["learning_rate", "damping"])
      'Did you mean damping=?'
    """
    for parameter, instead in _KNOWN.get(name.lower(), {}).items():
        if not parameter or parameter in parameters:
            return f"Write {instead}."
    close = difflib.get_close_matches(name, [p for p in parameters if p != name], n=1, cutoff=0.75)
    return f"Did you mean {close[0]}=?" if close else f"It takes {', '.join(parameters)}."


def check_call(function: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise unless a function can be called with these arguments.

    Args:
      function: the name of the function.
      signature: the signature of the function.
      args: those by position.
      kwargs: those by name.

    Raises:
      TypeError: naming the first argument that it does not have, or that is missing, and what to write.

    Examples:
      >>> def f(learning_rate, *, b1=0.9, b2=0.99):
      ...     pass
      >>> check_call("f", inspect.signature(f), (1e-3,), {"beta1": 0.9})
      Traceback (most recent call last):
      TypeError: f() takes no beta1=. Write b1=.
      >>> check_call("f", inspect.signature(f), (1e-3, 0.9), {})
      Traceback (most recent call last):
      TypeError: f() takes learning_rate by position, and all else by name: b1, b2. It was given 2 by position.
    """
    parameters = signature.parameters
    kinds = inspect.Parameter
    variable = any(p.kind == kinds.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    if not variable and (unknown := [name for name in kwargs if name not in named]):
        raise TypeError(f"{function}() takes no {unknown[0]}=. {advice_for(unknown[0], named)}")
    first = [n for n, p in parameters.items() if p.kind == kinds.POSITIONAL_OR_KEYWORD]
    if len(args) > len(first) and not any(p.kind == kinds.VAR_POSITIONAL for p in parameters.values()):
        rest = [name for name in named if name not in first]
        raise TypeError(
            f"{function}() takes {', '.join(first) or 'nothing'} by position, and all else by name: "
            f"{', '.join(rest)}. It was given {len(args)} by position."
        )
    if twice := [name for name in first[: len(args)] if name in kwargs]:
        raise TypeError(f"{function}() was given {twice[0]} by position and by name: give it once.")
    needed = [name for name in named if parameters[name].default is kinds.empty]
    if missing := [name for name in needed if name not in kwargs and name not in first[: len(args)]]:
        raise TypeError(f"{function}() needs {missing[0]}=, which was not given.")
