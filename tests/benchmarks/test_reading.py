"""What is read from the text of a compiled program."""

import jax
import pytest

import precond
from benchmarks.ahead import hlo, reading


def instruction(
    name, opcode="add", operands="", cycles=0, scope="", more="", type_="f32[8,128]{1,0:T(8,128)}", root=""
):
    """A line as libtpu prints it."""
    cost = f', backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}' if cycles else ""
    label = f', metadata={{op_name="{scope}"}}' if scope else ""
    return f"  {root}%{name} = {type_} {opcode}({operands}){more}{label}{cost}"


def computation(name, *lines, entry=""):
    return "\n".join([f"{entry}%{name} (x: f32[8,128]) -> f32[8,128] {{", *lines, "}", ""])


def counting(start, end, stride=1, cycles=10, scope="jit(f)/while"):
    """A loop over whole numbers, and its computations; `end` is a number, or what only the run will tell."""
    of_counter = {"type_": "s32[]{:T(128)}"}
    known = isinstance(end, int)
    pair = "(s32[]{:T(128)}, s32[]{:T(128)})"
    element = instruction("i", "get-tuple-element", "%c", more=", index=0", **of_counter)
    bound = (
        instruction("n", "constant", str(end), **of_counter)
        if known
        else instruction("n", "get-tuple-element", "%c", more=", index=1", **of_counter)
    )
    compare = instruction("lt", "compare", "%i, %n", type_="pred[]", more=", direction=LT", root="ROOT ")
    body = [
        element,
        instruction("by", "constant", str(stride), **of_counter),
        instruction("next", "add", "%i, %by", **of_counter),
        instruction("work", "fusion", "%i", cycles, scope),
        instruction("out", "tuple", "%next, %by", type_=pair, root="ROOT "),
    ]
    there = [
        instruction("zero", "constant", str(start), **of_counter),
        instruction("begin", "copy", "%zero", **of_counter),
        instruction("last", "parameter", "1", **of_counter),
        instruction("carry", "tuple", "%begin, %last", type_=pair),
        instruction("loop", "while", "%carry", 0, scope, ", condition=%cond, body=%body", pair),
    ]
    return computation("cond", element, bound, compare) + computation("body", *body), there


def test_a_line_is_read_whole():
    type_ = "(f32[8,128]{1,0:T(8,128)S(1)}, /*index=1*/bf16[4,2]{1,0}, u32[]{:S(2)})"
    line = instruction("start.1", "all-gather-start", "%a, %b.2", 7, "jit(f)/g", ", channel_id=3", type_)
    (found,) = hlo.parse(computation("main", line, entry="ENTRY ")).computations["main"]
    assert (found.name, found.opcode, found.operands) == ("start.1", "all-gather-start", ("a", "b.2"))
    assert (found.cycles, found.scope, found.attribute("channel_id")) == (7, "jit(f)/g", 3)
    assert hlo.size(found.type) == 4 * 8 * 128 + 2 * 8 + 4


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("HloModule f")


def test_what_has_no_estimate_counts_nothing():
    line = instruction("a", "fusion", "", 2**63 - 1)
    assert reading.Reading(computation("main", line, entry="ENTRY ")).summary()["cycles"] is None


@pytest.mark.parametrize(
    ("start", "end", "stride", "turns"),
    [(0, 12, 1, 12), (3, 12, 1, 9), (0, 7, 2, 4), (0, "later", 1, 1), (5, 5, 1, 0)],
)
def test_a_loop_counts_as_often_as_its_condition_says(start, end, stride, turns):
    called, there = counting(start, end, stride)
    text = called + computation("main", *there, instruction("a", cycles=5, scope="jit(f)/add"), entry="ENTRY ")
    cycles = reading.Reading(text).summary()["cycles"]
    assert cycles == {"step": 5 + 10 * turns, "without_refresh": 5 + 10 * turns, "parts": {"model": 5 + 10 * turns}}


def test_cycles_belong_to_the_parts_that_the_library_names():
    called, there = counting(0, "later", scope="jit(f)/optimizer/precond.turns/while")
    lines = [
        instruction("a", cycles=1, scope="jit(f)/optimizer/precond.stacks[of 3]/concatenate"),
        instruction("b", cycles=2, scope="jit(f)/optimizer/precond.stacks[of 3]/vmap(precond.statistics)/dot"),
        instruction("c", cycles=4, scope="jit(f)/optimizer/precond.application/dot"),
        instruction("d", cycles=8, scope="jit(f)/optimizer/mul"),
        instruction("e", cycles=16),
        instruction("f", cycles=32, scope="jit(f)/jvp()/dot"),
    ]
    cycles = reading.Reading(called + computation("main", *there, *lines, entry="ENTRY ")).summary()["cycles"]
    parts = {"packing": 1, "statistics": 2, "application": 4, "optimizer": 8, "unnamed": 16, "model": 32, "refresh": 10}
    assert cycles == {"step": 73, "without_refresh": 63, "parts": dict(sorted(parts.items()))}


def test_a_branch_costs_what_its_loops_cost():
    called, there = counting(0, 12, scope="jit(f)/while")
    text = called + computation("looping", *there)
    text += computation("plain", instruction("a", cycles=50, scope="jit(f)/add"))
    condition = instruction("c", "conditional", "%p", 0, "jit(f)/cond", ", branch_computations={%plain, %looping}")
    cycles = reading.Reading(text + computation("main", condition, entry="ENTRY ")).summary()["cycles"]
    assert cycles["step"] == 120


def test_what_the_compiler_adds_to_a_refresh_belongs_to_it():
    lines = [instruction("a", cycles=3), instruction("b", cycles=4, scope="jit(f)/optimizer/mul", root="ROOT ")]
    condition = instruction(
        "c", "conditional", "%p", 0, "precond.refresh[1 of 2]/cond", ", branch_computations={%turn}"
    )
    text = computation("turn", *lines) + computation("main", condition, entry="ENTRY ")
    assert reading.Reading(text).summary()["cycles"]["parts"] == {"refresh": 7}


def test_the_scopes_that_are_reported_are_those_of_the_library():
    params = {"a": {"kernel": jax.ShapeDtypeStruct((16, 16), "float32")}}
    tx = precond.soap(1e-3)
    state = jax.eval_shape(tx.init, params)
    text = jax.jit(tx.update).lower(params, state, params).as_text(debug_info=True)
    assert [name for name in reading.PARTS if f"precond.{name}" not in text] == []


def test_of_a_condition_the_costliest_branch_counts_but_not_that_of_the_first_step():
    branches = [
        computation("none", instruction("a", cycles=1, scope="jit(f)/optimizer/copy")),
        computation("usual", instruction("b", cycles=3, scope="jit(f)/optimizer/precond.refresh[1 of 2]/dot")),
        computation("once", instruction("c", cycles=50, scope="jit(f)/precond.refresh[1 of 2]/precond.first/eigh")),
    ]
    more = ", branch_computations={%once, %none, %usual}"
    condition = instruction("c", "conditional", "%p", 0, "jit(f)/precond.refresh[1 of 2]/cond", more)
    cycles = reading.Reading("".join(branches) + computation("main", condition, entry="ENTRY ")).summary()["cycles"]
    assert cycles == {"step": 3, "without_refresh": 0, "parts": {"refresh": 3}}


def test_a_collective_is_counted_once_with_the_bytes_of_its_result():
    scope = "jit(f)/optimizer/all_gather"
    both = "(f32[1,128]{1,0}, f32[8,128]{1,0})"
    # One chain in three fusions. What a shard_map sends has one channel, so that its number tells nothing apart.
    chain = ', channel_id=1, frontend_attributes={chain_id="0"}'
    hidden = [computation(f"part_{i}", instruction(f"g{i}", "all-gather", "%x", 0, scope, chain)) for i in range(3)]
    lines = [
        instruction("r", "all-reduce", "%x", 0, "jit(f)/dot", ", channel_id=1, to_apply=%add"),
        instruction("t", "all-reduce", "%y", 0, scope, ", channel_id=1, to_apply=%add"),
        instruction("s", "all-gather-start", "%x", 0, scope, ", channel_id=1", both),
        instruction("d", "all-gather-done", "%s", 0, scope),
        *(instruction(f"f{i}", "fusion", "%x", 1, "", f", calls=%part_{i}") for i in range(3)),
    ]
    found = reading.Reading("".join(hidden) + computation("main", *lines, entry="ENTRY ")).summary()
    bytes_ = 4 * 8 * 128
    assert found["collectives"] == [
        {"kind": "all-gather", "async": True, "count": 2, "bytes": 2 * bytes_, "optimizer_bytes": 2 * bytes_},
        {"kind": "all-reduce", "async": False, "count": 2, "bytes": 2 * bytes_, "optimizer_bytes": bytes_},
    ]
    assert (found["fusions"], found["kernels"]) == (3, 6)
