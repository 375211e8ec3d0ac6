"""What mkdocs does beside its own work: tables of the reference, formulas as MathML, and a look for the network.

mkdocs calls each function that is named `on_..`. Three things are done here, so that no plugin is needed for them:

- A page of the reference lists public names, `::: precond.name`. Each becomes the documentation of the object behind
  the name, and a table on top of the page shows the first sentence of each.
- Formulas become MathML, which browsers draw by themselves. No page runs a script for them.
- The build fails if a page asks for anything from another machine.
"""

import functools
import html
import importlib
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Pages that live elsewhere in the repository, and what they show.
PAGES = {
    "examples/README.md": "examples/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
SHOWN = ("examples/*.py", "examples/results/*", "examples/programs/*.py", "CITATION.cff")

NAME = re.compile(r"^::: (\S+)$", re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
# An attribute that makes a browser load something; a link to another site is loaded when a reader clicks.
LOADS = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object|track|input)\b[^>]*?\b(?:src|srcset|data|poster)\s*=\s*"
    r"[\"']?\s*((?:https?:)?//[^\s\"'>]+)"
    r"|<link\b(?![^>]*\brel=[\"']?(?:canonical|next|prev|alternate)\b)[^>]*?\bhref\s*=\s*[\"']?\s*((?:https?:)?//[^\s\"'>]+)"
    r"|url\(\s*[\"']?\s*((?:https?:)?//[^\s\"')]+)|@import\s+[\"']((?:https?:)?//[^\"']+)",
    re.IGNORECASE,
)


def lookup(name: str) -> Any:
    """Return the object that a public name such as `precond.layers.linen.capture` stands for."""
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for end, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:end]))
        found = getattr(found, part)
    return found


def definition(name: str) -> str:
    """Return the path at which a public name is defined: files are called what they export, and hide it otherwise."""
    found = lookup(name)
    module, qualified = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    return f"{module}.{qualified}" if module.startswith("precond") and qualified else name


@functools.cache
def sources() -> Any:
    """Return the library as its sources say it is."""
    import griffe

    return griffe.load("precond", search_paths=[str(ROOT)])


def written_below(name: str) -> str:
    """Return the string below the definition of a type or a constant, which Python does not keep."""
    text = sources()[name.removeprefix("precond.")].docstring
    assert text is not None, f"write a string below {name} that says what it is"
    return str(text.value)


def first_sentence(name: str) -> str:
    """Return the first sentence of the documentation of a public name."""
    found = lookup(name)
    text = found.__doc__ if getattr(found, "__module__", "").startswith("precond") else written_below(name)
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph)[0].replace("|", "\\|")


def with_table(markdown: str) -> str:
    """Return a page of the reference with its summary table, and with names in place of the paths behind them."""
    names = NAME.findall(markdown)
    rows = [f"| [`{name.removeprefix('precond.')}`](#{name}) | {first_sentence(name)} |" for name in names]
    table = "\n".join(["| name | what it does |", "|---|---|", *rows])

    def entry(match: re.Match[str]) -> str:
        name = match[1]
        level = 3 if re.search(r"^## ", markdown[: match.start()], re.MULTILINE) else 2
        options = f"    options:\n      heading: {name}\n      toc_label: {name.removeprefix('precond.')}"
        path = definition(name)
        anchor = "" if path == name else f'<a id="{name}"></a>\n\n'
        return f"{anchor}::: {path}\n{options}\n      heading_level: {level}\n"

    start = min(markdown.find(mark) for mark in ("\n## ", "\n::: ") if mark in markdown) + 1
    return f"{markdown[:start]}{table}\n\n{NAME.sub(entry, markdown)[start:]}"


def as_mathml(page: str) -> str:
    """Return HTML whose formulas are MathML."""
    from latex2mathml.converter import convert

    def drawn(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]).strip(), display="block" if match[2] == "[" else "inline")

    return FORMULA.sub(drawn, page)


def asks_network(text: str) -> list[str]:
    """Return the addresses of other machines that a browser would load something from to show a page."""
    return [next(filter(None, found)) for found in LOADS.findall(text)]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that are kept elsewhere in the repository."""
    from mkdocs.structure.files import File

    for uri, source in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the summary table of a page of the reference; lead links of pages from elsewhere to the site's own."""
    if page.file.src_uri.startswith("reference/") and NAME.search(markdown):
        page.meta["search"] = {"boost": 0.5}  # a search should find a guide before a name
        return with_table(markdown)
    if page.file.src_uri == "changelog.md":
        page.meta["search"] = {"boost": 0.2}
    return re.sub(r"\]\((?:\.\./)?docs/", "](../" if "/" in page.file.src_uri else "](", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Draw formulas."""
    return as_mathml(html)


def on_post_build(config: Any) -> None:
    """Fail if a page asks another machine for anything."""
    from mkdocs.exceptions import PluginError

    site = Path(config["site_dir"])
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if found := asks_network(path.read_text()):
            raise PluginError(f"{path.relative_to(site)} asks the network for {', '.join(found)}")
