"""Every block of Python in README and docs runs, every public name is documented once, no page needs a network."""

import ast
import functools
import importlib.util
import inspect
import json
import re
import textwrap
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib as mpl
import optax
import pytest

import precond

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md"]


def blocks(page):
    """The blocks of Python of a page; those of a tab are indented."""
    found = re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


# These train many models. The tests of their subjects run the same functions, in more cases.
LATE = ("checkpoints", "devices", "doctor", "fsdp", "kfac", "large_batches", "muon", "plan", "recipes")
LONG = [ROOT / "docs" / f"{name}.md" for name in LATE]


@pytest.mark.platforms
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=str(p.relative_to(ROOT)), marks=[pytest.mark.slow] * (p in LONG)) for p in PAGES],
)
def test_the_page_runs(page, tmp_path, monkeypatch):
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def named_in(code):
    """The names of the library in a block of code, as `precond.views.default`."""
    whole = [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
    return {name for name in whole if re.fullmatch(r"precond(\.\w+)+", name)}


def test_the_library_has_every_name_on_the_pages_that_run_late():
    names = set().union(*(named_in(code) for page in LONG for code in blocks(page)))
    assert len(names) > 40
    for name in names:
        eval(name, {"precond": precond})


def test_what_k_fac_costs_is_what_was_counted():
    counted = json.loads((ROOT / "benchmarks" / "results" / "kfac.json").read_text())
    page, percent = (ROOT / "docs" / "kfac.md").read_text(), counted["percent_more_than_a_plain_step"]
    assert all(f"| {value} % |" in page for value in percent.values())
    assert all(value < 10 for name, value in percent.items() if "an eighth" in name)


def code_of(page):
    """The lines of the blocks of code of a page, without the indent of a tab."""
    found = re.findall(r"^( *)```\w*[^\n]*\n(.*?)^\1```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line.removeprefix(indent) for indent, block in found for line in block.splitlines()]


CODE_WIDTH = 88


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_fits_a_small_screen(page):
    assert [line for line in code_of(page) if len(line) > CODE_WIDTH] == []


def test_examples_of_public_names_fit_a_small_screen():
    lines = [line for name in REFERENCE for line in (HOOKS.lookup(name).__doc__ or "").splitlines()]
    lines = [line.strip() for line in lines]
    assert [line for line in lines if line.startswith((">>>", "...")) and len(line) > CODE_WIDTH] == []


def test_the_page_of_k_fac_begins_with_ten_lines_that_work():
    text = (ROOT / "docs" / "kfac.md").read_text()
    assert len(text.split("```python")[0].split()) < 15
    lines = [line for line in blocks(ROOT / "docs" / "kfac.md")[0].splitlines() if line]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) == 10


def nav():
    """Titles and pages of each section of the site's navigation."""
    text = (ROOT / "mkdocs.yml").read_text().split("nav:\n")[1].split("\ntheme:")[0]
    sections = {}
    for line in text.splitlines():
        if match := re.match(r"  - (\w+):$", line):
            sections[match[1]] = pages = {}
        elif match := re.match(r"      - (.+): (\S+\.md)$", line):
            pages[match[1]] = match[2]
    return sections


def test_the_navigation_has_the_pages_that_people_look_for():
    found = nav()
    assert list(found) == ["Guides", "Reference", "Examples", "About"]
    assert list(found["Guides"])[:9] == [
        "Getting started",
        "Choosing an optimizer",
        "Tuning step by step",
        "Coming from another library",
        "FSDP, MaxText and pods",
        "Devices",
        "Checkpoints and changes",
        "Watching a run",
        "FAQ by symptom",
    ]
    assert {"Gallery", "Benchmarks"} <= set(found["Examples"])
    assert {"Glossary", "Architecture", "Contributing", "Versions", "Changelog", "Citing"} == set(found["About"])


def test_the_gallery_shows_every_picture():
    page = (ROOT / "docs" / "gallery.md").read_text()
    pictures = [*ROOT.glob("docs/images/*"), *ROOT.glob("examples/results/*.png"), *ROOT.glob("examples/results/*.svg")]
    names = [path.relative_to(ROOT).as_posix().removeprefix("docs/") for path in pictures]
    assert [name for name in names if f"]({name})" not in page and "architecture" not in name] == []


def test_every_metric_is_explained():
    documented = re.findall(r"^ *\| `([a-z]+/[a-z_]+)` \|", precond.metrics.__doc__, flags=re.MULTILINE)
    told = re.findall(r"^\| `([a-z]+/[a-z_]+)` \|", (ROOT / "docs" / "watching.md").read_text(), flags=re.MULTILINE)
    assert len(documented) > 20
    assert sorted(told) == sorted(documented)


def test_the_readme_has_an_example():
    assert blocks(ROOT / "README.md")


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = module_of(ROOT / "docs" / "hooks.py")
REFERENCE = [name for page in PAGES if page.parent.name == "reference" for name in HOOKS.NAME.findall(page.read_text())]
ROOMS = ("contrib", "diagnosis", "host", "large_batches", "layers", "orthogonal", "planning", "recipes")
ROOMS += ("replicas", "roots", "statistics", "transforms", "views")
TOP = [f"precond.{name}" for name in precond.__all__ if name != "__version__"]
PUBLIC = [name for name in TOP if not inspect.ismodule(HOOKS.lookup(name))]
PUBLIC += [f"precond.{room}.{name}" for room in ROOMS for name in HOOKS.lookup(f"precond.{room}").__all__]


def test_the_reference_has_every_public_name_exactly_once():
    shown = Counter(id(HOOKS.lookup(name)) for name in REFERENCE)
    assert [name for name in REFERENCE if shown[id(HOOKS.lookup(name))] > 1] == []
    assert [name for name in PUBLIC if id(HOOKS.lookup(name)) not in shown] == []
    assert len(PUBLIC) > 200


def test_every_page_of_the_reference_is_in_its_index():
    pages = {page.name for page in PAGES if page.parent.name == "reference"} - {"index.md"}
    assert set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "reference" / "index.md").read_text())) == pages


@pytest.mark.parametrize("name", REFERENCE)
def test_words_come_before_formulas(name):
    thing = HOOKS.lookup(name)
    if inspect.isfunction(thing) or inspect.isclass(thing):
        first = thing.__doc__.split("\n\n")[0]
        assert "$" not in first
        assert first.rstrip().endswith("."), first


def test_a_name_that_hides_behind_its_file_is_found():
    page = HOOKS.with_table("# Page\n\nWords.\n\n## Part\n\n::: precond.shampoo\n")
    assert "::: precond.optimizers.shampoo.shampoo\n" in page
    assert '<a id="precond.shampoo"></a>' in page
    assert page.index("| [`shampoo`](#precond.shampoo) | ") < page.index("## Part")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ('<script src="https://cdn.net/a.js"></script>', ["https://cdn.net/a.js"]),
        ("<img alt=x src='//cdn.net/a.png'>", ["//cdn.net/a.png"]),
        ('<link rel="stylesheet" href="https://fonts.net/a.css">', ["https://fonts.net/a.css"]),
        ('<link rel="canonical" href="https://here.net/a">', []),
        ("@import 'https://fonts.net/a.css'; a { background: url(https://b.net/c.png) }", ["https://fonts.net/a.css"]),
        ('<a href="https://arxiv.org/abs/1802.09568">Shampoo</a> <img src="images/a.svg">', []),
    ],
)
def test_the_build_sees_what_a_page_asks_the_network_for(text, addresses):
    assert HOOKS.asks_network(text)[: max(len(addresses), 1)] == addresses


def test_formulas_are_drawn_without_a_script():
    pytest.importorskip("latex2mathml", reason="make docs installs it")
    page = HOOKS.as_mathml(r'<p><span class="arithmatex">\(\beta_2 &lt; 1\)</span></p>')
    assert page.startswith("<p><math")
    assert "<mi>&#x003B2;</mi>" in page
    assert 'display="block"' in HOOKS.as_mathml(r'<div class="arithmatex">\[x\]</div>')


def test_the_site_runs_no_script_of_ours():
    assert "javascript" not in (ROOT / "mkdocs.yml").read_text()


def table_rows(page):
    """The rows of the tables of a page, as lists of cells; a bar inside of code does not part cells."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def expressions(cells):
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell) if "(" in code]


COMING_FROM = [code for cells in table_rows(ROOT / "docs" / "coming_from.md") for code in expressions(cells[1:])]


@pytest.fixture(scope="module")
def names_of_a_user():
    params = {"first": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}}
    capture = precond.layers.explicit({"first": precond.layers.dense()}, params)

    def loss(params, x):
        return jnp.mean((x @ params["first"]["kernel"] + params["first"]["bias"]) ** 2)

    tx = precond.adascale(optax.sgd, 0.1, scale=8)
    gradient = precond.replicas.over_groups(precond.replicas.gradients(loss), 8)
    _, grads, spread = gradient(params, jax.random.normal(jax.random.key(0), (16, 6)))
    _, state = tx.update(grads, tx.init(params), params, replicas=spread)
    own = {
        "capture": capture,
        "params": params,
        "loss": loss,
        "tx": tx,
        "state": state,
        "grads": grads,
        "spread": spread,
    }
    return vars(precond) | {"optax": optax, "jax": jax, "functools": functools} | own


def is_optimizer(made, code):
    return isinstance(made, optax.GradientTransformation) and "capture" not in code and "adascale" not in code


# The first row of each function; the others wait for `make test-slow`.
FIRST = {code.split("(")[0]: code for code in reversed(COMING_FROM)}.values()


def test_every_row_of_the_tables_of_arguments_is_accepted(names_of_a_user):
    for code in COMING_FROM:
        eval(code, dict(names_of_a_user))


def is_long(code):
    """Whether `init` of this row takes a second, as the one of the row of the same recipe without arguments."""
    return code.startswith("recipes.google_shampoo(") and code not in FIRST


@pytest.mark.parametrize("code", [pytest.param(c, marks=[pytest.mark.slow] * is_long(c)) for c in COMING_FROM])
def test_a_row_of_the_tables_of_arguments_can_be_constructed(code, names_of_a_user):
    made = eval(code, dict(names_of_a_user))
    if is_optimizer(made, code):
        jax.eval_shape(made.init, names_of_a_user["params"])


@pytest.mark.parametrize("code", [pytest.param(c, marks=[pytest.mark.slow] * (c not in FIRST)) for c in COMING_FROM])
def test_an_optimizer_of_these_rows_has_updates_for_all_parameters(code, names_of_a_user):
    made, params = eval(code, dict(names_of_a_user)), names_of_a_user["params"]
    if is_optimizer(made, code):
        updates, _ = jax.eval_shape(lambda p: made.update(p, made.init(p), p), params)  # nothing is compiled
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_every_library_has_its_table():
    assert len(COMING_FROM) > 100
    for cells in table_rows(ROOT / "docs" / "coming_from.md"):
        assert len(cells) in (2, 3), cells


def test_every_row_of_compatibility_names_a_test_that_exists():
    rows = [cells for cells in table_rows(ROOT / "docs" / "compatibility.md") if cells[0] != "feature"]
    assert len(rows) > 60
    for feature, _, test, verdict in rows:
        file, function = test.strip("`").split("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / file).read_text(), test
        assert verdict.startswith(("complete", "on purpose: ")), feature


def readers_of_blocks():
    """By field of `BlockInfo`: the files that read it from `info`, `blocks` or `info_of(..)`."""
    through = {"raw": "gradients", "advance": None, "local": None}
    found = {name: set() for name in precond.BlockInfo._fields}
    for file in (ROOT / "precond").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            source = ast.unparse(node.value) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"(info|blocks|info_of\(.*\))(\.local\(\))?", source) and file.stem != "block_info":
                field = through.get(node.attr, node.attr)
                if field in found:
                    found[field].add(file.stem)
    return found


def givers_of_blocks():
    """By field of `BlockInfo`: the files that give it, as `BlockInfo(field=..)` or `info._replace(field=..)`."""
    found = {name: set() for name in precond.BlockInfo._fields}
    for file in (ROOT / "precond").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.fullmatch(r"BlockInfo|(info|inside|blocks)\._replace", called) and file.stem != "block_info":
                for keyword in node.keywords:
                    found[keyword.arg].add(file.stem)
    return found


def test_the_page_of_architecture_says_who_gives_and_who_reads_what():
    rows = [cells for cells in table_rows(ROOT / "docs" / "architecture.md") if len(cells) == 4]
    for column, found in ((2, givers_of_blocks()), (3, readers_of_blocks())):
        said = {cells[0].strip("`"): set(re.findall(r"`(\w+)`", cells[column])) for cells in rows}
        assert {name: said[name] for name in precond.BlockInfo._fields} == found


def readers_of_arguments():
    """By argument of an update: the files that read it by name, but for `blocks`."""
    found = {}
    for file in (ROOT / "precond").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.FunctionDef) and node.args.kwarg and node.args.kwarg.arg == "extra":
                names = [x.arg for x in node.args.kwonlyargs]
            if isinstance(node, ast.Subscript | ast.Compare | ast.Call):
                names = re.findall(r"^extra(?:\.get\(|\[)'(\w+)'|^'(\w+)' (?:not )?in extra$", ast.unparse(node))
                names = [a or b for a, b in names]
            for name in names:
                found.setdefault(name, set()).add(file.stem)
    return {name: files - {"statistic"} for name, files in found.items() if name != "blocks"}  # that is the interface


def test_the_page_of_architecture_says_who_reads_which_argument():
    rows = [cells for cells in table_rows(ROOT / "docs" / "architecture.md") if len(cells) == 3]
    heads = [cells[0] for cells in rows]
    said = {}
    for names, _, files in rows[heads.index("argument") + 1 : heads.index("to add")]:
        for name in re.findall(r"`(\w+)`", names):
            said.setdefault(name, set()).update(re.findall(r"`(\w+)`", files))
    assert said == readers_of_arguments()


def cells_between(page, begin, end):
    text = page.read_text().split(begin)[1].split(end)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.strip().splitlines()[2:]]


def results(name):
    return json.loads((ROOT / name).read_text())


def test_the_numbers_of_choosing_are_those_of_the_demo_and_the_benchmark():
    page = ROOT / "docs" / "choosing.md"
    demo = [
        [
            row["optimizer"],
            f"{row['held_out_loss']:.3f}",
            str(row["steps_to_baseline"]),
            f"{row['seconds_to_baseline']:.1f}",
            f"{row['update_ms']:.1f}",
            f"{row['state_bytes'] / 1e6:.1f}",
        ]
        for row in results("examples/results/demo.json")["table"]
    ]
    assert cells_between(page, "<!-- demo begins -->", "<!-- demo ends -->") == demo
    columns = ("mean_time_to_best_peer", "state_to_best_peer", "slowest_to_median")
    ratios = results("benchmarks/results/step.json")["ratios"]
    rows = [[name, *(str(ratios[name][c]) for c in columns)] for name in ratios if not name.endswith("newton")]
    assert cells_between(page, "<!-- step begins -->", "<!-- step ends -->") == rows


def test_the_table_of_sizes_is_that_of_the_benchmark():
    found = results("benchmarks/results/many.json")["sizes"]
    rows = [[n, f"{x['trace_s']:.1f}", f"{x['compile_s']:.1f}", f"{x['update_ms']:.0f}"] for n, x in found.items()]
    assert cells_between(ROOT / "docs" / "costs.md", "<!-- sizes begin -->", "<!-- sizes end -->") == rows


def test_the_table_of_methods_for_roots_is_that_of_the_benchmark():
    found = results("benchmarks/results/roots-cpu.json")
    errors = {(x["n"], x["p"], x["condition"], x["method"]): x["error"] for x in found["results"]}
    slower = {(x["n"], x["p"], x["condition"]): x for x in found["times_slower_than_composite"]}
    for n, condition, *cells in cells_between(ROOT / "docs" / "costs.md", "<!-- roots begin -->", "<!-- roots end -->"):
        place, wanted = (int(n), 4, float(condition)), []
        for method in ("optax, newton", "precond.eigh"):
            error = errors[*place, method] / errors[*place, "precond.composite"]
            wanted += [f"{slower[place][method]:.1f}", f"{error:.1f}"]
        assert cells == wanted


def costs_of_muon():
    """The rows of the table on Muon's page, and what is sent."""
    cases = results("benchmarks/results/accelerators.json")["cases"]
    steps = {
        "gpt-124m/fsdp-told": ("GPT of 124M parameters, FSDP, 4 x 1024 tokens a chip", ".1f"),
        "gpt-124m/dp": ("GPT of 124M parameters, data parallel, 4 x 1024 tokens a chip", ".1f"),
        "gpt-small/fsdp-told": ("small GPT, FSDP, 4 x 512 tokens a chip", ".2f"),
        "gpt-small/dp": ("small GPT, data parallel, 4 x 512 tokens a chip", ".2f"),
    }
    for case, (words, digits) in steps.items():
        cycles = {n: cases[f"{case}/v5e-8/{n}"]["cycles"]["step"] for n in ("muon", "optax_muon", "adamw")}
        row = f"| {words} | {{muon}} | {{optax_muon}} | {{adamw}} |"
        yield "docs/muon.md", row, {n: format(x / 1e6, digits) for n, x in cycles.items()}

    def sent(name, kind):
        found = cases[f"gpt-124m/fsdp-told/v5e-8/{name}"]["collectives"]
        (one,) = [x for x in found if x["kind"] == kind and not x["async"]]
        return {"count": one["count"], "size": f"{one['bytes'] / 2**20:.1f}"}

    to_all, ours, optaxs = sent("muon", "all-to-all"), sent("muon", "all-reduce"), sent("optax_muon", "all-reduce")
    words = "ours has {0[count]} all-to-alls of {0[size]} MiB and {1[count]} all-reduces of {1[size]} MiB."
    yield "docs/muon.md", words.format(to_all, ours), {}
    yield "docs/muon.md", "no all-to-all, and {count} all-reduces of {size} MiB.", optaxs


def sentences():
    """Sentences with numbers: the page, and its words with the numbers of a committed result."""
    demo = {row["optimizer"]: row["steps_to_baseline"] for row in results("examples/results/demo.json")["table"]}
    yield "README.md", "in {Shampoo} of its {AdamW} steps and SOAP in {SOAP},", demo
    host = results("benchmarks/results/host.json")["results"]
    host = {name: round(value) for name, value in host.items()}
    words = "took {median_ms_alone} ms alone, {median_ms_beside_a_refresh} ms beside a refresh and "
    yield "docs/devices.md", words + "{median_ms_with_blocking_refresh} ms with the refresh within it", host
    eight = results("benchmarks/results/scaling.json")["results"][-1]
    yield "docs/devices.md", "one device does {flops} times an eighth", eight["times_ideal"]
    seeds = results("examples/results/autoencoder_kfac.json")["seeds"]
    steps = {name: [seed[name]["steps"] for seed in seeds] for name in ("K-FAC", "EK-FAC")}
    ends = {"a": min(steps["K-FAC"]), "b": max(steps["K-FAC"]), "c": min(steps["EK-FAC"]), "d": max(steps["EK-FAC"])}
    yield from costs_of_muon()
    yield "docs/kfac.md", "in {a} to {b} steps with every one of five seeds, and EK-FAC in {c} to {d}", ends


@pytest.mark.parametrize(("page", "words", "numbers"), [*sentences()], ids=lambda x: x if isinstance(x, str) else "")
def test_a_sentence_with_numbers_is_that_of_the_results(page, words, numbers):
    assert words.format(**numbers) in " ".join((ROOT / page).read_text().split())


RIDDLES = re.compile(
    r"\b[Ll]ikewise\b|\bis none\b|\bcomes? so\b|\b[Ww]hat is not?\b|(?<!here )\bis no\b(?! more| less| longer)"
    r"|\b[Tt]he latter\b|\b[Hh]ence\b|\b[Tt]hus\b|\bthereof\b|\bshall\b|\bwherein\b|\bthat of theirs\b"
)


LONGEST = 30


def sentences_of(text):
    """The sentences of a page, without code, tables, headings, pictures and addresses of links."""
    text = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^( *)```.*?^\1```", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for part in re.split(r"\n\s*\n|\n(?= *(?:[-|#>]|\d\.) )", text):
        if not part.lstrip().startswith(("|", "#", "<", "![", "[![", "===", ":::")):
            yield from re.split(r"(?<=[.!?:])\s+", " ".join(part.split()))


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_sentence_is_long(page):
    assert [words for words in sentences_of(page.read_text()) if len(words.split()) > LONGEST] == []


def test_no_sentence_of_a_public_docstring_is_long():
    long = []
    for name in REFERENCE:
        words = re.split(r"\n *(?:Args|Returns|Raises|Attributes|Examples):", HOOKS.lookup(name).__doc__ or "")[0]
        found = [x for x in sentences_of(inspect.cleandoc(words)) if len(x.split()) > LONGEST + 2]
        long += [x for x in found if "$" not in x]  # what the letters of a formula mean may be a list
    assert long == []


def test_no_page_and_no_public_docstring_speaks_in_riddles():
    words = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
    words |= {name: HOOKS.lookup(name).__doc__ or "" for name in REFERENCE}
    found = {
        place: RIDDLES.findall(re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)) for place, text in words.items()
    }
    assert {place: riddles for place, riddles in found.items() if riddles} == {}
