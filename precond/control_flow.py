"""Run conditions and loops that leave work undone under `jax.vmap`, too. This is floor 1 of the library."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from precond.trees import Tree, vary, varying

__all__ = ["after", "loop_between", "run_if"]

Arrays = list[jax.Array]


def after(number: jax.Array, tree: Tree) -> jax.Array:
    """Return a number as it is, but let XLA for CPUs know it only once the arrays of a tree have been computed.

    A loop that ends at this number then runs behind the work that made the arrays, and may write over what that work
    has read. XLA for CPUs does not look for such an order. Without it, XLA copies what the loop writes to. The other
    compilers find the order themselves. The number stays one for all members of a `jax.vmap`, and one for all devices
    of a `jax.shard_map`.

    Examples:
      >>> after(jnp.asarray(3), {"x": jnp.ones(2)}).item()
      3
    """

    def impossible(x: jax.Array) -> jax.Array:
        # No NaN equals 0, so this is 0 for every array. XLA does not see it, and waits for the array.
        head = x[(0,) * x.ndim]
        return (jnp.isnan(head) & (head == 0)).astype(number.dtype)

    @custom_vmap
    def run(number: jax.Array, tree: list[jax.Array]) -> jax.Array:
        return lax.platform_dependent(number, tree, cpu=lambda n, x: sum(map(impossible, x), n), default=lambda n, _: n)

    @run.def_vmap
    def rule(size: int, batched: Any, number: jax.Array, tree: list[jax.Array]) -> Any:
        del size
        return number, batched[0]

    leaves = [x for x in jax.tree.leaves(tree) if x.size and varying(x) <= varying(number)]
    return run(number, lax.stop_gradient(leaves))  # a function with a rule for `vmap` has no derivative in reverse


def run_if(predicate: jax.Array, on_true: Callable[..., Any], on_false: Callable[..., Any], *operands: Tree) -> Any:
    """Run one of two functions, as `jax.lax.cond` does.

    Under `jax.vmap` with a predicate for every member, `cond` runs both functions for all members. Here a function runs
    only if some member asks for it.

    Args:
      predicate: a boolean scalar.
      on_true: a function from the operands to a tree of arrays.
      on_false: a function from the operands to a tree of the same shapes.
      *operands: trees of arrays.

    Examples:
      >>> double = lambda p, x: run_if(p, lambda x: 2 * x, lambda x: x, x)
      >>> jax.vmap(double)(jnp.asarray([True, False]), jnp.asarray([1.0, 1.0])).tolist()
      [2.0, 1.0]
    """
    yes, on_true = _hoisted(on_true, *operands)
    no, on_false = _hoisted(on_false, *operands)

    def computing_both(predicate: jax.Array, yes: Arrays, no: Arrays, operands: tuple[Tree, ...]) -> Any:
        first = on_true(*_open_if(predicate, (yes, *operands)))
        second = on_false(*_open_if(~predicate, (no, *operands)))
        return _select(predicate, first, second)

    def conditional(predicate: jax.Array, yes: Arrays, no: Arrays, operands: tuple[Tree, ...]) -> Any:
        return lax.cond(predicate, lambda: on_true(yes, *operands), lambda: on_false(no, *operands))

    run = custom_vmap(conditional)

    @run.def_vmap
    def rule(size: int, batched: Any, predicate: jax.Array, yes: Arrays, no: Arrays, operands: tuple[Tree, ...]) -> Any:
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        if not batched[0]:
            out = jax.vmap(conditional, axes, axis_size=size)(predicate, yes, no, operands)
            return out, jax.tree.map(lambda _: True, out)

        def of_all(function: Callable[..., Any], hidden: Arrays, axes_of_hidden: Any) -> Callable[[], Any]:
            return lambda: jax.vmap(function, (axes_of_hidden, *axes[3]), axis_size=size)(hidden, *operands)

        varies_over: list[Any] = []

        def traced() -> Any:
            out = of_all(on_true, yes, axes[1])()
            varies_over.append(jax.tree.map(varying, out))  # a shape does not have the axes over which an array varies
            return out

        shapes = jax.eval_shape(traced)

        def nothing() -> Any:
            # A shape has the sharding of the whole mesh, which is not that of an array inside of `jax.shard_map`.
            return jax.tree.map(lambda x, over: vary(jnp.zeros(x.shape, x.dtype), over), shapes, varies_over[0])

        first = run_if(jnp.any(predicate), of_all(on_true, yes, axes[1]), nothing)
        second = run_if(jnp.any(~predicate), of_all(on_false, no, axes[2]), nothing)
        out = jax.vmap(_select)(predicate, first, second)
        return out, jax.tree.map(lambda _: True, out)

    return _with_derivative_of(computing_both, run, jnp.asarray(predicate), yes, no, operands)


def loop_between(
    first: jax.typing.ArrayLike,
    last: jax.typing.ArrayLike,
    body: Callable[..., Any],
    carry: Tree,
    given: Tree,
    *,
    most: int,
) -> Any:
    """Run `body` for the turns `first <= turn < last`, of which there may be none.

    `jax.lax.fori_loop` does the same, but it has no derivative in reverse. Here the derivative is that of a scan over
    `most` turns. Under `jax.vmap` the loop runs from the smallest `first` to the largest `last` of the members. In each
    turn the members that are not due keep their values. So members in step take no more turns than one of them alone.

    Args:
      first: a whole number of at least 0.
      last: another.
      body: a function from the number of a turn, the carried values and `given` to the next carried values.
      carry: a tree of arrays.
      given: a tree of arrays.
      most: a bound of `last`. A derivative looks at every turn below it.

    Examples:
      >>> multiply = lambda turn, total, factor: total * factor
      >>> power = lambda x, first: loop_between(first, 3, multiply, jnp.ones(()), x, most=3)
      >>> power(2.0, 0).item(), jax.vmap(power, (None, 0))(2.0, jnp.arange(3)).tolist()
      (8.0, [8.0, 4.0, 2.0])
      >>> jax.grad(power)(2.0, 0).item()
      12.0
    """
    first, last = (jnp.asarray(x, jnp.int32) for x in (first, last))
    first, last = vary((first, last), varying(first) | varying(last))  # so is the number of a turn
    hidden, body = _hoisted(body, first, carry, given)

    def every_turn(first: jax.Array, last: jax.Array, hidden: Arrays, carry: Tree, given: Tree) -> Any:
        def turn(carry: Tree, i: jax.Array) -> tuple[Tree, None]:
            due = (first <= i) & (i < last)
            seen, old, read = _open_if(due, (hidden, carry, given))
            return _select(due, body(seen, i, old, read), carry), None

        return lax.scan(turn, carry, jnp.arange(most, dtype=jnp.int32))[0]

    @custom_vmap
    def run(first: jax.Array, last: jax.Array, hidden: Arrays, carry: Tree, given: Tree) -> Any:
        def turn(i: jax.Array, carry: Tree) -> Any:
            # If there is but one turn, nothing depends on its number, and XLA would take the work out of the loop: it
            # would then run even if there is no turn.
            read = (hidden, given) if most > 1 else jax.tree.map(lambda x: _tied(x, i), (hidden, given))
            return body(read[0], i, carry, read[1])

        return lax.fori_loop(first, last, turn, carry)

    @run.def_vmap
    def rule(
        size: int, batched: Any, first: jax.Array, last: jax.Array, hidden: Arrays, carry: Tree, given: Tree
    ) -> Any:
        axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
        # From the first turn on, every member has a state of its own.
        carry = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)), carry, batched[3])
        none = first >= last
        begin, end = jnp.min(jnp.where(none, most, first)), jnp.max(jnp.where(none, 0, last))

        def turn_of_all(i: jax.Array, carry: Tree, rest: tuple[jax.Array, jax.Array, Arrays, Tree]) -> Any:
            def turn(first: jax.Array, last: jax.Array, hidden: Arrays, carry: Tree, given: Tree) -> Any:
                return _select((first <= i) & (i < last), body(hidden, i, carry, given), carry)

            first, last, hidden, given = rest
            return jax.vmap(turn, (*axes[:3], 0, axes[4]), axis_size=size)(first, last, hidden, carry, given)

        out = loop_between(begin, end, turn_of_all, carry, (first, last, hidden, given), most=most)
        return out, jax.tree.map(lambda _: True, out)

    return _with_derivative_of(every_turn, run, first, last, hidden, carry, given)


def _hoisted(function: Callable[..., Any], *operands: Tree) -> tuple[Any, Callable[..., Any]]:
    """Find the arrays that a function closes over, which a rule for `vmap` would not see.

    Returns:
      These arrays, and the function with them as its first argument.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*operands)
    # The function outlives this trace, and must not keep its arrays.
    jaxpr, hidden, treedef = closed.jaxpr, list(closed.consts), jax.tree.structure(shapes)

    def run(hidden: Arrays, *operands: Tree) -> Any:
        return treedef.unflatten(jaxpr_as_fun(ClosedJaxpr(jaxpr, hidden))(*jax.tree.leaves(operands)))

    return hidden, run


def _select(predicate: jax.Array, on_true: Tree, on_false: Tree) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(predicate, x, y), on_true, on_false)


def _open_if(predicate: jax.Array, tree: Tree) -> Any:
    """Let derivatives through only if the predicate holds, so that a value that is not used gives no NaN."""
    return jax.tree.map(lambda x: jnp.where(predicate, x, lax.stop_gradient(x)), tree)


def _tied(x: jax.Array, i: jax.Array) -> jax.Array:
    """Make an array depend on a number, as far as the compiler can see."""
    return lax.optimization_barrier((i, x))[1]


def _with_derivative_of(definition: Callable[..., Any], run: Callable[..., Any], *given: Tree) -> Any:
    """Call `run`, and take its derivatives from `definition`, which leaves nothing undone.

    A function with a rule for `vmap` has no derivative in reverse, and neither has a `cond` whose derivative is mapped.
    """

    @jax.custom_jvp
    def function(*given: Tree) -> Any:
        return run(*given)

    @function.defjvp
    def rule(primals: tuple[Tree, ...], tangents: tuple[Tree, ...]) -> Any:
        return jax.jvp(definition, primals, tangents)

    return function(*given)
