"""What the benchmark of compilers keeps and compares; no accelerator, and no compiler of one, is needed."""

import collections
import doctest
import importlib
import json
import math
import textwrap

import jax
import pytest
from jax.sharding import AbstractMesh

import precond
from benchmarks.ahead import child, drawing, loops, models, optimizers, results, targets, transformers
from benchmarks.ahead.case import Case
from benchmarks.ahead.standard import QUICK, STANDARD
from precond.linalg import gram_is_cheaper

pytestmark = pytest.mark.platforms

COMMITTED = child.ROOT / "benchmarks" / "results" / "accelerators.json"


def row(**changes):
    return {
        "cycles": {"step": 1000, "without_refresh": 900, "parts": {}},
        "temporary_bytes": 100,
        "argument_bytes": 200,
        "peak_bytes": 300,
        "collectives": [{"kind": "all-gather", "async": False, "count": 1, "bytes": 400, "optimizer_bytes": 400}],
        "versions": {"jax": "0.12"},
    } | changes


def test_growth_by_more_than_three_percent_is_told():
    slower = {"step": 1031, "without_refresh": 927, "parts": {}}
    assert results.compared(row(), row()) == []
    assert results.compared(row(), row(temporary_bytes=103, peak_bytes=1)) == []
    assert results.compared(row(), row(temporary_bytes=104)) == [
        "The temporary bytes grew by 4.0 %: 100 before, 104 now."
    ]
    assert results.compared(row(), row(cycles=slower)) == ["The cycles grew by 3.1 %: 1,000 before, 1,031 now."]
    wire = [{"kind": "all-to-all", "async": True, "count": 2, "bytes": 800, "optimizer_bytes": 0}]
    assert results.compared(row(), row(collectives=wire)) == [
        "The bytes of collectives grew by 100.0 %: 400 before, 800 now."
    ]


def test_a_number_that_comes_from_nothing_or_goes_is_told():
    assert results.compared(row(temporary_bytes=0), row()) == [
        "The temporary bytes grew by from nothing: 0 before, 100 now."
    ]
    assert results.compared(row(), row(cycles=None)) == [
        "It has no cycles any more.",
        "It has no cycles without refresh any more.",
    ]
    assert results.compared(row(), {"unfinished": ">570 s"}) == ["It was not compiled in 570 s of a processor."]


def test_the_verdict_names_the_case_and_other_versions():
    lines, well = results.verdict({"a": row()}, {"a": row(versions={"jax": "0.13"})})
    assert well
    assert lines == ["a: the versions differ, so that a growth need not be the library's.", "a: nothing grew."]
    assert not results.verdict({"a": row()}, {"a": row(argument_bytes=300)})[1]
    assert not results.verdict({}, {"a": row()})[1]
    assert not results.verdict({"a": {"unfinished": ">570 s"}}, {"a": row()})[1]


def test_rows_are_merged_by_their_case(tmp_path):
    path = tmp_path / "results" / "rows.json"
    assert results.load(path) == {}
    results.save(path, results.merged({}, {"b": row(), "c": {"failed": "no"}}))
    results.save(path, results.merged(results.load(path), {"a": row(), "c": row()}))
    assert list(results.load(path)) == ["a", "b", "c"]
    assert results.load(path)["c"] == row()


def test_numbers_are_not_lost_to_a_run_that_did_not_finish():
    late = {"unfinished": ">5 s", "versions": {"jax": "0.12"}}
    newer = late | {"versions": {"jax": "0.13"}}
    assert results.merged({"a": row()}, {"a": late})["a"] == row()
    assert results.merged({"a": row()}, {"a": newer})["a"] == newer


@pytest.fixture
def python(tmp_path):
    """Stands for an interpreter: a shell script, whose last argument is the file for the row."""

    def make(script):
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\nfor out; do :; done\n" + textwrap.dedent(script))
        path.chmod(0o755)
        return path

    return make


def test_a_case_that_takes_too_long_is_ended_and_told(python):
    script = """echo '{"stage": "compile", "versions": {"jax": "0.12"}}' > "$out"; sleep 60"""
    found = child.run(STANDARD[0], python(script), limit=1)
    assert found["unfinished"] == found["compiler_s"] == ">0 s"  # of a processor: it slept
    assert (found["stage"], found["versions"]) == ("compile", {"jax": "0.12"})
    assert found["wall_s"] < 30
    assert "compile" in drawing.line("a/b/c/d", found)


def test_a_case_that_fails_tells_its_last_line(python):
    found = child.run(STANDARD[0], python("echo first; echo 'ValueError: no.' >&2; echo; exit 1"), limit=60)
    assert found["failed"] == "ValueError: no."


def test_a_case_that_is_compiled_gives_its_row(python):
    found = child.run(STANDARD[0], python("""echo '{"kernels": 3}' > "$out" """), limit=60)
    assert found["kernels"] == 3
    assert found["process_s"] >= 0


def test_a_line_tells_the_numbers():
    one = row(compiler_s=12.34, peak_bytes=3 << 20, temporary_bytes=2 << 20, argument_bytes=1 << 20, kernels=7)
    line = drawing.line("a/b/c/d", one | {"cycles": {"step": 2_500_000, "without_refresh": 1_500_000, "parts": {}}})
    assert line.split()[:8] == ["a/b/c/d", "12.3", "3", "2", "1", "2.50", "1.50", "7"]
    assert "1 all-gather of 0.0 MiB | " in line
    assert drawing.line("a/b/c/d", one | {"cycles": None}).split()[5:7] == ["-", "-"]


def tiny(**changes):
    config = transformers.Config(width=64, layers=2, vocabulary=256, context=16, **changes)
    return models.Model(config.shapes, config.batch, config.loss, config.scanned)


def lowered(loop, model, name, devices=8):
    loop = loops.LOOPS[loop]
    mesh = loops.mesh_of(loop, jax.devices()[:devices])
    shapes = model.shapes()
    tx, extra = optimizers.optimizer_of(name, shapes, loops.axis_of(loop, mesh), scanned=model.scanned)
    specs = jax.tree.map(lambda x: loops.specification(loop, mesh, x.shape), shapes)
    return loops.lowered(loop, mesh, model, tx, loops.placed(mesh, shapes, specs), extra)


@pytest.mark.parametrize(
    "loop", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("dp", "fsdp"))) for name in loops.LOOPS]
)
def test_every_loop_is_traced(loop):
    text = lowered(loop, tiny(), "shampoo-64").as_text()
    assert "module" in text


@pytest.mark.parametrize(
    "name", ["optax_muon", *(pytest.param(x, marks=pytest.mark.slow) for x in ("muon", "small_soap-64"))]
)
@pytest.mark.parametrize("changes", [{"scanned": True}, {"experts": 2}], ids=str)
def test_every_kind_of_model_is_traced(changes, name):
    assert "module" in lowered("fsdp", tiny(**changes), name).as_text()


def test_k_fac_is_given_factors_alone_and_none_beside_a_model():
    alone, beside = (lowered(loop, tiny(), "kfac").in_avals for loop in ("update", "dp"))
    factors = 2 * 4 * 2  # two layers have four kernels each, and a kernel two factors
    grads, batch = len(jax.tree.leaves(tiny().shapes())), 2
    assert len(jax.tree.leaves(alone)) - len(jax.tree.leaves(beside)) == factors + grads - batch
    with pytest.raises(ValueError, match="kernels are all matrices"):
        lowered("update", tiny(scanned=True), "kfac")


@pytest.mark.parametrize("name", ["resnet-50", "moe", "gpt-small", "gpt-small-scanned"])
def test_models_have_a_loss(name):
    model = models.MODELS[name]
    assert jax.eval_shape(model.loss, model.shapes(), *model.batch(1)).shape == ()


def test_models_have_the_size_of_those_they_are_named_after():
    def count(name):
        return sum(math.prod(x.shape) for x in jax.tree.leaves(models.MODELS[name].shapes()))

    assert count("gpt-124m") == count("gpt-124m-scanned")
    assert 124e6 < count("gpt-124m") < 125e6
    assert 25.5e6 < count("resnet-50") < 25.6e6


def test_parameters_are_divided_as_the_loop_says():
    mixed, fsdp = loops.LOOPS["mixed"], loops.LOOPS["fsdp"]
    mesh = AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
    assert tuple(loops.specification(mixed, mesh, (256, 8, 768))) == ("fsdp", None, "tensor")
    assert tuple(loops.specification(mixed, mesh, (256, 768))) == ("fsdp", "tensor")
    assert tuple(loops.specification(mixed, mesh, (8, 8))) == ()
    assert tuple(loops.specification(fsdp, AbstractMesh((8,), ("data",)), (4, 256, 1024))) == (None, None, "data")
    assert tuple(loops.specification(loops.LOOPS["dp"], mesh, (256, 768))) == ()


@pytest.mark.parametrize("name", ["adam", "adamw-256", "shampoo-", "SOAP"])
def test_a_name_of_no_optimizer_is_refused(name):
    with pytest.raises(ValueError, match="There is no optimizer"):
        optimizers.parsed(name)


@pytest.mark.parametrize("name", ["hlo", "reading", "results", "loops", "optimizers"])
def test_the_examples_run(name):
    found = doctest.testmod(importlib.import_module(f"benchmarks.ahead.{name}"))
    assert (found.attempted > 0, found.failed) == (True, 0)


def test_the_standard_cases_name_what_there_is():
    for case in (*STANDARD, *QUICK):
        assert Case.of(case.key) == case
        assert case.model in models.MODELS
        assert case.loop in loops.LOOPS
        assert case.target in targets.TARGETS
        optimizers.parsed(case.optimizer)


def test_the_quick_cases_have_rows_to_compare_with():
    rows = json.loads(COMMITTED.read_text())["cases"]
    assert [case.key for case in QUICK if not rows.get(case.key, {}).get("cycles")] == []


def test_the_page_shows_the_rows():
    page, rows = drawing.PAGE.read_text(), results.load(COMMITTED)
    assert drawing.with_table(page, rows) == page
    with pytest.raises(ValueError, match="no place for the table"):
        drawing.with_table("", rows)


def results_of(name):
    return json.loads((COMMITTED.parent / f"{name}.json").read_text())


def page_rows(begin, end):
    text = (child.ROOT / "docs" / "accelerators.md").read_text().split(begin)[1].split(end)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.strip().splitlines()[2:]]


def test_the_page_shows_what_the_rebuilt_engine_changed_and_its_goals_are_met():
    found = results_of("engine")
    before, now = (found[when]["cases"] for when in ("before", "after"))

    def cells(case):
        for name in ("megacycles", "megacycles_without_refresh"):
            yield from (f"{when[case][name]:.2f}" for when in (before, now))
        yield from (f"{when[case]['temporary_bytes'] / when[case]['argument_bytes']:.2f}" for when in (before, now))
        yield from (f"{when[case]['compiler_processor_s']:.0f}" for when in (before, now))

    shown = page_rows("<!-- engine begins -->", "<!-- engine ends -->")
    assert shown == [[case.replace("/", ", "), *cells(case)] for case in now]
    small, large = now["small/shampoo-256/dp"], now["124m/shampoo-768/update"]
    assert small["megacycles"] <= 3.7
    assert large["temporary_bytes"] <= 0.6 * large["argument_bytes"]
    assert large["compiler_processor_s"] <= 0.5 * before["124m/shampoo-768/update"]["compiler_processor_s"]


def test_the_page_shows_what_moving_costs_and_the_ways_of_the_library_are_no_dearer():
    found = results_of("moving")["v5e"]
    mib = 2**20
    assert page_rows("<!-- moving begins -->", "<!-- moving ends -->") == [
        [what, how, f"{x['megacycles']:.2f}", f"{x['temporary_bytes'] / mib:.0f}", f"{x['compiler_s']:.1f}"]
        for what, ways in found.items()
        for how, x in ways.items()
    ]
    cost = {what: {how: x["megacycles"] for how, x in ways.items()} for what, ways in found.items()}
    assert cost["gather"]["in their own shapes"] <= min(1.6, cost["gather"]["as one flat row"])
    assert cost["cut"]["by transposition"] <= 1.03 * cost["cut"]["by slices"]
    assert cost["join"]["by slices"] <= cost["join"]["by transposition"]


def test_the_page_shows_what_a_gpu_has_measured():
    found = results_of("gpu")
    assert page_rows("<!-- products begin -->", "<!-- products end -->") == [
        [x["precision"], f"{x['tflop_per_s']:.0f}", f"{x['error_in_float32_roundings']:.0f}"]
        for x in found["products"]
        if x["n"] == 768
    ]
    shown = {(x["kind"], x["method"], x["n"]): x for x in found["refreshes"]}  # of two compilations the last
    assert page_rows("<!-- refreshes begin -->", "<!-- refreshes end -->") == [
        [kind, method, str(n), str(x["batch"]), f"{x['ms_per_matrix']:.3f}"] for (kind, method, n), x in shown.items()
    ]


def test_the_sentences_on_a_gpu_are_those_of_its_measurements():
    found = results_of("gpu")
    large = {(x["method"], bool(x["options"])): x for x in found["refreshes"] if x["n"] == 768}
    slow, fast = large["composite", False], large["composite", True]
    ms = {method: x["ms_per_matrix"] for (method, _), x in large.items()}
    update = {x["optimizer"]: x for x in found["updates"] if not x["options"]}
    step = {x["optimizer"]: (x["step_ms_in_a_row"], x["profile"]["busy_ms"]) for x in found["training"]}
    rate = {x["precision"]: x["tflop_per_s"] for x in found["products"] if x["n"] == 768}
    sentences = (
        f"{round(ms['qr, a stack at once'] / ms['cholesky_qr'])} times as fast as a stack of QR decompositions",
        f"Shampoo's update of the small model takes {update['shampoo']['compile_s']:.0f} s to compile, and `composite` "
        f"alone {slow['compile_s']:.0f} s.",
        f"`composite` then compiles in {fast['compile_s']} s, and runs as fast: {fast['ms_per_matrix']:.3f} ms a "
        f"matrix, and {slow['ms_per_matrix']:.3f} without this flag.",
        f"a step of the small model takes {step['shampoo'][0]:.1f} ms with Shampoo, of which it is busy for "
        f"{step['shampoo'][1]:.1f}. With AdamW a step takes {step['optax.adamw'][0]:.1f} ms",
    )
    page = " ".join((child.ROOT / "docs" / "accelerators.md").read_text().split())
    for sentence in sentences:
        assert sentence in page, sentence
    assert step["optax.adamw"][1] >= step["optax.adamw"][0]  # busy all the time
    assert 5.5 < rate["HIGH"] / rate["HIGHEST"] < 6.5  # six times as fast
    lapack = (child.ROOT / "precond" / "linalg" / "lapack.py").read_text()
    one, other = (16 * ms[f"qr, {how}"] for how in ("a stack at once", "one after the other"))
    assert f"QR takes an H200 {one:.0f} milliseconds as a stack, and {other:.0f} in turn" in lapack


def test_what_a_gpu_computes_in_less_than_float32_is_refused_for_statistics():
    worst = collections.defaultdict(float)
    for x in results_of("gpu")["products"]:
        worst[x["precision"]] = max(worst[x["precision"]], x["error_in_float32_roundings"])
    assert len(worst) == 8
    for name, error in worst.items():
        precision = getattr(jax.lax.Precision, name, None) or getattr(jax.lax.DotAlgorithmPreset, name)
        if error > 8:
            with pytest.raises(ValueError, match="need float32 or more"):
                precond.precision(statistics=precision)
        else:
            precond.precision(statistics=precision)


def test_the_form_of_newton_schulz_is_the_cheaper_one_where_both_were_measured():
    found = results_of("gram")
    for rows, dtype in (("cpu_ms", "float32"), ("v5e_megacycles", "bfloat16")):
        for x in found[rows]:
            chosen, other = ("gram", "block") if gram_is_cheaper(x["shape"][1:], dtype) else ("block", "gram")
            assert x[chosen] <= 1.02 * x[other], (x, dtype)


def test_the_page_says_how_long_large_updates_compile_for_a_gpu():
    rows, names = results.load(COMMITTED), ("shampoo-768", "soap-768", "kfac")
    seconds = {name: rows[f"gpt-124m/update/h100-1/{name}"]["compiler_s"] for name in names}
    shampoo, soap, kfac = (round(seconds[name]) for name in names)
    page = (child.ROOT / "docs" / "accelerators.md").read_text()
    assert f"in {shampoo} processor seconds with Shampoo, {soap} with SOAP and {kfac} with K-FAC." in " ".join(
        page.split()
    )
    assert seconds["shampoo-768"] <= 40


def test_the_page_says_what_a_large_batch_costs_beside_adamw():
    rows, names = results.load(COMMITTED), ("adamw", "optax_muon", "muon", "shampoo-768", "soap-768", "kfac")
    steps = {name: rows[f"gpt-124m-16k/fsdp-told/v5e-8/{name}"]["cycles"]["step"] for name in names}
    more = {name: round(100 * (cycles / steps["adamw"] - 1)) for name, cycles in steps.items()}
    page = (child.ROOT / "docs" / "accelerators.md").read_text()
    assert (
        f"Muon takes {more['muon']} % more cycles than AdamW. Shampoo takes {more['shampoo-768']} % more, and SOAP "
        f"with a refresh every 10 steps {more['soap-768']} %. K-FAC takes {more['kfac']} % more in a step in which it "
        f"captures no factors."
    ) in " ".join(page.split())
    assert more["muon"] <= 10
    assert more["shampoo-768"] <= 5
    assert more["soap-768"] <= 7
    assert more["kfac"] <= 10
    assert more["optax_muon"] == 0
    summed = [rows[f"gpt-124m-16k/fsdp-told/v5e-8/{name}"]["collectives"] for name in ("optax_muon", "muon")]
    alone = [sum(x["bytes"] for x in found if x["kind"] == "all-reduce" and not x["async"]) / 2**20 for found in summed]
    sent = [x["bytes"] / 2**20 for x in summed[1] if x["kind"] == "all-to-all"]
    dp = [rows[f"gpt-124m/dp/v5e-8/{name}"]["cycles"]["step"] for name in ("optax_muon", "muon", "adamw")]
    theirs, ours = (round(100 * (x / dp[2] - 1)) for x in dp[:2])
    assert (
        f"It sums {alone[0]:.0f} MiB over the devices while nothing else runs. Our Muon sums {alone[1]:.1f} MiB so, "
        f"and sends {sum(sent):.0f} MiB of matrices to their owners and back. In "
        f"data-parallel training Optax's Muon takes {theirs} % more cycles than AdamW, and ours {ours} %."
    ) in " ".join(page.split())
