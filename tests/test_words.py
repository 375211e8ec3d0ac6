"""The words of the code: docstrings begin with a verb, sentences are short, and every entry has its noun."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "precond"
FILES = sorted(PACKAGE.rglob("*.py"))

# A docstring says what a module, a class or a function does: it begins with one of these.
IMPERATIVES = """
    Accumulate Adapt Add Append Apply Approximate Average Begin Bound Call Capture Carry Cast Chain Change Check Choose
    Collect Combine Compare Compile Compress Compute Concatenate Copy Count Crop Cut Damp Decompose Define Derive
    Describe Divide Do Enlarge Estimate Explain Factor Fill Filter Find Finish Fix Follow Forget Gather Give Graft Group
    Hash Help Hide Hold Import Invert Join Keep Lay Learn Leave Let List Look Make Mark Measure Merge Minimise Move
    Multiply Name Normalize Note Number Orthogonalize Pack Pad Pass Precondition Project Put Raise Read Record Refresh
    Refuse Remove Repeat Replace Report Return Rotate Round Run Save Say Scale Schedule Send Shape Shard Share Shorten
    Show Shrink Skip Solve Sort Split Start Step Store Sum Switch Take Tap Tell Test Track Train Transform Translate
    Treat Try Turn Use Wait Warn Widen Wrap Write Yield
"""

# Words that a reader whose English is a second language stops at, and words that hide what a sentence is about.
# The case of letters does not matter, except in "none", which as None is a word of Python.
RIDDLES = re.compile(
    r"\blikewise\b|\bis (?-i:none)\b|\bcomes? so\b|\bwhat is not?\b|(?<!here )\bis no\b(?! more| less| longer)"
    r"|\bthe latter\b|\bhence\b|\bthus\b|\bthereof\b|\bshall\b|\bwherein\b|\bthat of theirs\b"
    r"|\bcomes? (divided|whole)\b|\bbe it\b|\bfor ever\b|\banew\b|\bof a map\b|\bmeets?\b|\bfeels? it\b|\btold\b"
    r"|\bwhatever\b|\bstands? (in|for|on|there|beside)\b|\ball but\b|\bnothing but\b|\bwhose (it|its|their)\b",
    re.IGNORECASE,
)
LONGEST = 32

SECTION = re.compile(r"^ *(?:Args|Attributes|Returns|Raises|Examples|Reference):$", re.MULTILINE)
ENTRIES = re.compile(r"^ *(?:Args|Attributes):\n((?: +.*\n?)+)", re.MULTILINE)
# An entry that begins so has no noun: "size: of the matrices", "step: counted from 1", "x: `[N, d]`".
NO_NOUN = re.compile(r"(of|whose|in|that|to|from|by|for|on|over|with|without|at|any|such|its|their|counted)\b|`\[")


def documented(file):
    """The nodes of a file that have a docstring, without properties, which are nouns."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            decorators = [ast.unparse(x) for x in getattr(node, "decorator_list", [])]
            yield getattr(node, "name", "module"), ast.get_docstring(node), "property" in decorators


def prose(text):
    """A docstring without examples, formulas and code, in which the name of an entry is code, too."""
    text = re.split(r"\n *Examples:\n", text)[0]
    text = re.sub(r"^( +\*{0,2})\w+(?:, \w+)*: ", r"\1x: ", text, flags=re.MULTILINE)
    text = re.sub(r"::\n\n(?: {4,}.*\n|\n)+", ".\n\n", text)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\$[^$]*\$", "x", text)


def sentences(text):
    """The sentences of a docstring, of which every entry of a section begins one."""
    for part in re.split(r"\n\s*\n|\n(?= +\*{0,2}\w+(?:, \w+)*: )", SECTION.sub("\n", prose(text))):
        if not part.lstrip().startswith("|"):
            yield from re.split(r"(?<=[.!?:;])\s+", " ".join(part.split()))


def comments(file):
    """The comments of a file, those of several lines joined."""
    text, last = "", -1
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type == tokenize.COMMENT:
            text += (" " if token.start[0] == last + 1 else "\n") + token.string.lstrip("# ")
            last = token.start[0]
    return text


BY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))


@BY_FILE
def test_a_docstring_begins_with_a_verb(file):
    first = [(name, text.split(maxsplit=1)[0]) for name, text, is_noun in documented(file) if not is_noun]
    assert [(name, word) for name, word in first if word not in IMPERATIVES.split()] == []


@BY_FILE
def test_a_module_says_what_it_does_in_a_sentence_that_begins_with_a_verb(file):
    text = ast.get_docstring(ast.parse(file.read_text())) or "nothing"
    sentence = text.split("\n")[0]
    assert sentence.split()[0] in IMPERATIVES.split()
    assert sentence.endswith(".")
    # A part of a sentence behind a full stop is a sentence of its own: "Floor 4." has no verb.
    assert not re.search(r"\bFloor \d", text)


@BY_FILE
def test_a_state_says_that_it_holds(file):
    nodes = [x for x in ast.walk(ast.parse(file.read_text())) if isinstance(x, ast.ClassDef)]
    states = [x for x in nodes if x.name.endswith("State") and "NamedTuple" in map(ast.unparse, x.bases)]
    assert [x.name for x in states if not (ast.get_docstring(x) or "").startswith("Hold ")] == []


@BY_FILE
def test_no_docstring_and_no_comment_speaks_in_riddles(file):
    words = [(name, prose(text)) for name, text, _ in documented(file)]
    words += [("a comment", text) for text in comments(file).splitlines()]
    words = [(name, " ".join(text.split())) for name, text in words]
    assert [(name, match[0]) for name, text in words for match in RIDDLES.finditer(text)] == []


@BY_FILE
def test_no_sentence_is_long(file):
    words = [words for _, text, _ in documented(file) for words in sentences(text)]
    assert [x for x in words if len(x.split()) > LONGEST] == []


@BY_FILE
def test_every_argument_and_attribute_has_its_noun(file):
    entries = [
        (name, entry)
        for name, text, _ in documented(file)
        for section in ENTRIES.findall(text)
        for entry in re.findall(r"^ +\*{0,2}\w+: (.*)$", section, re.MULTILINE)
    ]
    assert [(name, entry) for name, entry in entries if NO_NOUN.match(entry)] == []
