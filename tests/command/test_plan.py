"""`python -m precond plan`: what it prints, and what it says of arguments that do not fit."""

import io
import json
import re
import subprocess
import sys

import jax
import pytest

import precond
from precond.__main__ import main

pytestmark = pytest.mark.platforms

FSDP = ["--gradients", "data"]
GPT = ["plan", *["--preset", "gpt", "--width", "128", "--layers", "2", "--vocabulary", "512", "--block-size", "128"]]

LLAMA = ["plan", *["--preset", "llama", "--width", "256", "--layers", "1", "--vocabulary", "512"]]


def printed(capsys, *arguments):
    main([*arguments])
    return capsys.readouterr().out


LATE = precond.every(20, stagger=True, delay=1, warmup=1)
SAID = {
    "": (precond.shampoo, {}, "cuda"),
    "--optimizer soap --block-size 64 --refresh 5 --at-once": (precond.soap, {"block_size": 64, "refresh": 5}, "cuda"),
    "--optimizer soap --refresh 20 --method rotations": (
        precond.soap,
        {"method": precond.roots.rotations(), "refresh": LATE},
        "cuda",
    ),
    "--optimizer kl_shampoo --method newton": (precond.kl_shampoo, {"method": precond.newton()}, "cuda"),
    "--optimizer kl_soap --method eigh": (precond.kl_soap, {"method": precond.eigh()}, "cuda"),
    "--gather-dtype bfloat16 --platform cpu": (
        precond.shampoo,
        {"axis": precond.sharded("data", gather_dtype="bfloat16")},
        "cpu",
    ),
    "--optimizer muon": (precond.muon, {}, "cuda"),
    "--optimizer muon --method polar --block-size 64": (
        precond.muon,
        {"method": precond.orthogonal.polar(), "block_size": 64},
        "cuda",
    ),
}


LIKE_OTHERS = (
    "--optimizer soap --block-size 64 --refresh 5 --at-once",
    "--optimizer muon --method polar --block-size 64",
)


@pytest.mark.parametrize("said", [pytest.param(x, marks=[pytest.mark.slow] * (x in LIKE_OTHERS)) for x in SAID])
def test_json_is_what_the_function_finds(said, capsys):
    alias, arguments, platform = SAID[said]
    tx, model = (
        alias(1e-3, **{"axis": "data", "block_size": 128} | arguments),
        precond.planning.gpt(128, 2, vocabulary=512),
    )
    found = precond.plan(tx, model, mesh={"data": 8}, platform=platform)
    assert json.loads(printed(capsys, *GPT, "--devices", "8", *said.split(), "--json")) == json.loads(found.json())


def test_the_views_are_those_of_the_parameters(capsys):
    rows = [re.split(" {2,}", line) for line in printed(capsys, *GPT, "--views").splitlines()]
    assert ["layer_0/qkv/kernel", "128 x 384", "3 matrices 128 x 128", "3 of 128x128"] in rows
    assert ["tokens/embedding", "512 x 128", "not preconditioned"] in rows


def test_the_table_has_the_same_numbers(capsys):
    found = precond.plan(precond.shampoo(1e-3, block_size=128), precond.planning.gpt(128, 2, vocabulary=512))
    text = printed(capsys, *GPT)
    rows = {line.split("  ")[0]: line.split("  ")[0:1] + line[38:].split() for line in text.splitlines() if line}
    for stack in found.stacks:
        assert rows[stack.shape][1:3] == [str(stack.blocks), str(stack.padding)]
    assert rows["Operations of a step, on each device"][1:] == ["products", "decompositions"]
    assert rows["update the statistics"][1] == f"{found.work['statistics'].products / 1e6:.3g}"
    assert f"{found.bytes['roots'] / 1e6:.3g} MB" in text


def test_the_overhead_is_that_of_the_rates(capsys):
    rates = ["--step-ms", "10", "--flops-per-s", "1e12", "--wire-bytes-per-s", "1e9", "--devices", "4"]
    out = json.loads(printed(capsys, *GPT, *rates, "--json"))
    assert out["overhead"] == pytest.approx(sum(out["seconds"].values()) / 0.010)
    assert out["seconds"]["wire"] == sum(out["wire"].values()) / 1e9
    assert f"{out['overhead']:.1%}" in printed(capsys, *GPT, *rates)


def test_a_model_of_ones_own_comes_as_a_file_of_shapes(tmp_path, capsys):
    file = tmp_path / "model.json"
    file.write_text('{"layers": {"kernel": [96, 32], "bias": [32]}, "scale": []}')
    found = json.loads(printed(capsys, "plan", "--shapes", str(file), "--block-size", "32", "--json"))
    assert found["parameters"] == 96 * 32 + 32 + 1
    assert [(s["shape"], s["blocks"]) for s in found["stacks"]] == [("32x32", 3)]


FILES = {
    "no JSON": ("{", "this is no JSON"),
    "no shapes": ('{"up": {}}', "has names, and no shapes"),
    "a name twice": ('{"up": [4, 4], "up": [8, 8]}', 'has the name "up" twice'),
    "an axis that is too long": (
        '{"up": [999999999999, 8]}',
        "'up' has an axis, or a stack has blocks, that cannot",
    ),
    "a list": ("[1, 2]", "must hold names and shapes"),
    "nothing": ("{}", "must hold names and shapes"),
    "a number": ('{"up": {"bias": 4096}}', "up/bias is 4096, which is no shape: write [4096]"),
    "a name": ('{"up": "kernel"}', 'up is "kernel", which is no shape: write the lengths'),
    "a negative length": ('{"up": [8, -1]}', "up is [8, -1], which is no shape"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_without_shapes_is_refused(text, message, tmp_path, capsys):
    file = tmp_path / "model.json"
    file.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--shapes", str(file)])
    assert message in capsys.readouterr().err


def test_shapes_may_come_from_the_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"kernel": [64, 32]}'))
    assert json.loads(printed(capsys, "plan", "--shapes", "-", "--json"))["parameters"] == 64 * 32


def test_a_number_may_be_written_with_an_exponent(capsys):
    assert main(["plan", "--preset", "gpt", "--width", "1e2", "--layers", "1"]) == 0


def test_a_mesh_has_axes_that_divide_stacks_and_others(capsys):
    mesh = [*GPT, "--mesh", "data=4,tensor=2", "--json"]
    both, one = (json.loads(printed(capsys, *mesh, *more)) for more in ([], ["--axis", "data"]))
    assert both["devices"] == one["devices"] == 8
    params = precond.planning.gpt(128, 2, vocabulary=512)
    for found, axis, count in ((both, ("data", "tensor"), 8), (one, ("data",), 4)):
        tx = precond.shampoo(1e-3, block_size=128, axis=precond.sharded(axis, multiple=count))
        assert found == json.loads(precond.plan(tx, params, mesh={"data": 4, "tensor": 2}).json())
    assert one["bytes"]["roots"] == pytest.approx(2 * both["bytes"]["roots"], rel=0.01)


def test_gradients_that_come_divided_are_gathered_nowhere(capsys):
    whole, parts = (json.loads(printed(capsys, *GPT, "--devices", "8", "--json", *more)) for more in ([], FSDP))
    assert "all-gather" in whole["wire"]
    assert "all-gather" not in parts["wire"]
    assert parts["wire"]["all-to-all"] > 0
    # Adam's moments lie as the parameters do; counts and a few small arrays stay whole.
    assert parts["bytes"]["rest"] == pytest.approx(whole["bytes"]["rest"] / 8, rel=0.01)
    assert parts["bytes"]["roots"] == whole["bytes"]["roots"]


def test_k_fac_is_planned_with_the_factors_of_its_layers(capsys):
    found = json.loads(printed(capsys, *GPT[:-2], "--optimizer", "kfac", "--devices", "2", "--json"))
    stacks = {s["shape"]: s["blocks"] for s in found["stacks"]}
    assert stacks == {"129x384": 2, "129x128": 2, "129x512": 2, "513x128": 2}  # the bias is one more input
    factors = sum(n**2 + m**2 for n, m in ((129, 384), (129, 128), (129, 512), (513, 128)))
    # One layer of two on each device: an inverse for each factor.
    assert found["bytes"]["roots"] == pytest.approx(4 * factors, rel=0.01)
    assert found["work"]["statistics"]["elementwise"] > 0
    assert found["work"]["at once"]["decompositions"] > 0


def test_k_fac_takes_another_method(capsys):
    arguments = [*GPT[:-2], "--optimizer", "kfac", "--method", "composite", "--refresh", "5", "--json"]
    found = json.loads(printed(capsys, *arguments))
    assert found["work"]["at once"]["decompositions"] == 0
    assert found["periods"] == [5]


WIDE = ("plan", "--preset", "gpt", "--width", "1536", "--layers", "2")


def test_muon_takes_matrices_whole(capsys):
    found = json.loads(printed(capsys, *WIDE, "--optimizer", "muon", "--json"))
    assert {s["shape"] for s in found["stacks"]} == {"1536x1536", "1536x6144"}  # tall ones lie on their side
    assert found["bytes"]["roots"] == found["bytes"]["statistics"] == 0


WRONG = {
    "no model": (["plan"], "Name one model"),
    "half a preset": (["plan", "--preset", "gpt", "--width", "4"], "needs --width and --layers"),
    "no file": (["plan", "--shapes", "nowhere.json"], "nowhere.json"),
    "a method for bases": ([*GPT, "--method", "qr"], "shampoo takes one of eigh, composite, newton"),
    "at once, but when": ([*GPT, "--at-once"], "--at-once needs --refresh"),
    "no devices": ([*GPT, "--devices", "0"], "argument --devices: 0 must be a whole number of at least 1"),
    "an infinite width": (["plan", "--preset", "gpt", "--width", "inf"], "inf must be a whole number of at least 1"),
    "an unknown option": ([*GPT, "--deivces", "8"], "precond plan: error: there is no --deivces"),
    "a negative width": (["plan", "--preset", "gpt", "--width=-4"], "argument --width: -4 must be a whole number"),
    "half a layer": (["plan", "--preset", "gpt", "--layers", "1.5"], "argument --layers: 1.5 must be a whole number"),
    "an unknown preset": (["plan", "--preset", "bert"], "invalid choice: 'bert'"),
    "an unknown dtype": ([*GPT, "--dtype", "float31"], "argument --dtype: float31 must be a floating-point type"),
    "a dtype of integers": (
        [*GPT, "--gather-dtype", "int8"],
        "argument --gather-dtype: int8 must be a floating-point type",
    ),
    "an unknown platform": ([*GPT, "--platform", "banana"], "invalid choice: 'banana'"),
    "no refresh": ([*GPT, "--refresh", "0"], "argument --refresh: 0 must be a whole number of at least 1"),
    "heads that do not divide": ([*LLAMA, "--heads", "3"], "heads=3: this number of heads does not divide width=256"),
    "heads of keys": ([*LLAMA, "--heads", "4", "--kv-heads", "3"], "kv_heads=3: this number does not divide heads=4"),
    "patches that do not tile": (
        ["plan", "--preset", "vit", "--width", "64", "--layers", "1", "--patch", "15"],
        "patch=15: patches of this side do not tile",
    ),
    "a size of another preset": ([*GPT, "--experts", "8"], "--experts is no size of --preset gpt, which takes --width"),
    "a size beside a file": (["plan", "--shapes", "m.json", "--width", "8"], "--width belongs to a preset"),
    "a mesh without a size": ([*GPT, "--mesh", "data"], "'data' must be names and sizes of axes"),
    "a mesh of none": ([*GPT, "--mesh", "data=0"], "argument --mesh: 0 must be a whole number of at least 1"),
    "an axis twice": ([*GPT, "--mesh", "data=2,data=4"], "must be names and sizes of axes"),
    "a mesh and devices": ([*GPT, "--mesh", "data=2", "--devices", "2"], "not allowed with argument"),
    "an axis that is none": ([*GPT, "--mesh", "data=2", "--axis", "dta"], "--axis dta: the mesh has no such axis"),
    "gradients over none": ([*GPT, "--gradients", "fsdp"], "--gradients fsdp: the mesh has no such axis, but data"),
    "blocks of layers": ([*GPT, "--optimizer", "kfac"], "K-FAC takes every layer whole"),
    "a basis for K-FAC": ([*GPT[:-2], "--optimizer", "kfac", "--method", "qr"], "kfac takes one of eigh"),
    "a refresh of nothing": ([*GPT, "--optimizer", "muon", "--refresh", "5"], "Muon has no roots to refresh"),
    "a root for Muon": ([*GPT, "--optimizer", "muon", "--method", "eigh"], "muon takes one of newton_schulz, polar"),
    "a rate of nothing": ([*GPT, "--flops-per-s", "0"], "argument --flops-per-s: 0 must be a positive number"),
    "a rate without a step": ([*GPT, "--flops-per-s", "1e12"], "--flops-per-s needs --step-ms"),
    "a step without a rate": ([*GPT, "--step-ms", "3"], "--flops-per-s"),
    "no rate of decompositions": (
        [*GPT, "--optimizer", "soap", "--step-ms", "3", "--flops-per-s", "1e12"],
        "--decomposition-flops-per-s",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "precond", *GPT, "--devices", "4096"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "4096 devices" in done.stdout


def test_parameters_may_be_narrower(capsys):
    out = [json.loads(printed(capsys, *GPT, *more, "--json"))["moved"] for more in ([], ["--dtype", "bfloat16"])]
    numbers = sum(x.size for x in jax.tree.leaves(precond.planning.gpt(128, 2, vocabulary=512)))
    # Gradients and updates; and the moments of parameters without blocks.
    assert out[0] - out[1] >= 2 * 2 * numbers


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"precond {precond.__version__}\n"


def test_help_shows_examples_that_run(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["plan", "--help"])
    lines = capsys.readouterr().out.partition("examples:\n")[2].splitlines()
    examples = [line.split()[1:] for line in lines if "--shapes" not in line]
    assert len(examples) == 3
    for words in examples:
        smaller = [
            {"2048": "128", "4096": "256", "768": "64", "20": "1", "32": "1", "12": "1"}.get(w, w) for w in words
        ]
        assert main(smaller) == 0
