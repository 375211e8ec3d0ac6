"""`python -m precond plan`: what it prints, and what it says of arguments that do not fit."""

import json
import re
import subprocess
import sys

import jax
import pytest

import precond
from precond.__main__ import main

GPT = ["plan", *["--preset", "gpt", "--width", "128", "--layers", "2", "--vocabulary", "512", "--block-size", "128"]]


def printed(capsys, *arguments):
    main([*arguments])
    return capsys.readouterr().out


LATE = precond.every(20, stagger=True, delay=1, warmup=1)
SAID = {
    "": (precond.shampoo, {}, "cuda"),
    "--optimizer soap --block-size 64 --refresh 5 --at-once": (precond.soap, {"block_size": 64, "refresh": 5}, "cuda"),
    "--optimizer soap --refresh 20 --method rotations": (
        precond.soap,
        {"method": precond.rotations(), "refresh": LATE},
        "cuda",
    ),
    "--optimizer kl_shampoo --method newton": (precond.kl_shampoo, {"method": precond.newton()}, "cuda"),
    "--wire bfloat16 --platform cpu": (precond.shampoo, {"axis": precond.sharded("data", wire="bfloat16")}, "cpu"),
}


@pytest.mark.parametrize("said", SAID)
def test_json_is_what_the_function_finds(said, capsys):
    alias, arguments, platform = SAID[said]
    tx, model = (
        alias(1e-3, **{"axis": "data", "block_size": 128} | arguments),
        precond.planning.gpt(128, 2, vocabulary=512),
    )
    found = precond.plan(tx, model, mesh={"data": 8}, platform=platform)
    assert json.loads(printed(capsys, *GPT, "--devices", "8", *said.split(), "--json")) == json.loads(found.json())


def test_the_table_has_the_same_numbers(capsys):
    found = precond.plan(precond.shampoo(1e-3, block_size=128), precond.planning.gpt(128, 2, vocabulary=512))
    text = printed(capsys, *GPT)
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    for stack in found.stacks:
        assert rows[stack.shape][1:3] == [str(stack.blocks), str(stack.padding)]
    assert rows["flops of a step, a device"][-2:] == ["products", "decomposed"]
    assert rows["statistics"][1] == f"{found.work['statistics'].products / 1e6:.3g}"
    assert f"{found.bytes['roots'] / 1e6:.3g} MB" in text


def test_the_views_are_those_of_the_parameters(capsys):
    rows = [re.split(" {2,}", line) for line in printed(capsys, *GPT, "--views").splitlines()]
    assert ["layer_0/qkv/kernel", "128 x 384", "3 matrices 128 x 128", "3 of 128x128"] in rows
    assert ["tokens/embedding", "512 x 128", "not preconditioned"] in rows


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


WRONG = {
    "no model": (["plan"], "Name one model"),
    "half a preset": (["plan", "--preset", "gpt", "--width", "4"], "needs --width and --layers"),
    "no file": (["plan", "--shapes", "nowhere.json"], "nowhere.json"),
    "a method for bases": ([*GPT, "--method", "qr"], "shampoo takes one of eigh, composite, newton"),
    "at once, but when": ([*GPT, "--at-once"], "--at-once needs --refresh"),
    "no devices": ([*GPT, "--devices", "0"], "must be at least 1"),
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


def test_a_gpt_has_the_parameters_of_its_paper():
    # GPT-2's four sizes, as released.
    sizes = {(768, 12): 124439808, (1024, 24): 354823168, (1280, 36): 774030080, (1600, 48): 1557611200}
    for (width, layers), numbers in sizes.items():
        shapes = precond.planning.gpt(width, layers, vocabulary=50257)
        assert sum(x.size for x in jax.tree.leaves(shapes)) == numbers
