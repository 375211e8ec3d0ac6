"""The built site as readers meet it: in a browser, on a phone, at night, without a network, and by its search."""

import base64
import io
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))
from browser import Browser, program, served

SITE = Path(__file__).parents[2] / "site"
PAGES = sorted(str(path.parent.relative_to(SITE)) + "/" for path in SITE.rglob("index.html"))
pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(program() is None, reason="There is no Chromium: install one, or set CHROMIUM to its path."),
    pytest.mark.skipif(not PAGES, reason="The site is not built: run `make docs` first."),
]

# What people type, and the page that has to come first.
QUERIES = {
    "install": "getting_started/",
    "FSDP": "fsdp/",
    "MaxText": "fsdp/",
    "migrate": "coming_from/",
    "learning rate": "choosing/",
    "out of memory": "faq/",
    "NaN": "faq/",
    "loss explodes": "faq/",
    "slow": "faq/",
    "compile time": "faq/",
    "bfloat16": "faq/",
    "LoRA": "faq/",
    "embeddings": "faq/",
    "gradient clipping": "faq/",
    "checkpoint": "checkpoints/",
    "resume": "checkpoints/",
    "weight decay": "tuning/",
    "warmup": "tuning/",
    "batch size": "large_batches/",
    "metrics": "watching/",
    "multiple gpus": "devices/",
    "custom optimizer": "own_parts/",
    "Muon": "muon/",
    "K-FAC nnx": "kfac/",
    "cite": "citing/",
}

# What people ask, the page that one click leads to, and words of the answer in the part of the page that it shows.
QUESTIONS = {
    "which optimizer should I use": ("choosing/", "anything that AdamW trains, without a search"),
    "how do I choose the learning rate": ("choosing/", "AdamW's"),
    "how do I use it with flax": ("getting_started/", "TrainState"),
    "how do I migrate from SOAP": ("coming_from/", "shampoo_beta"),
    "does it work on TPU pods": ("fsdp/", "multiple="),
    "how do I save and resume a run": ("checkpoints/", "StandardCheckpointer"),
    "why is my loss NaN": ("faq/", "blocks/skipped"),
    "how much memory does it need": ("costs/", "times the bytes of the parameters"),
    "is it faster than AdamW": ("benchmarks/", "A number below 1 is better than AdamW"),
    "can I use different optimizers for different layers": ("faq/", "optax.partition"),
    "how do I use K-FAC": ("kfac/", "front.attached"),
    "how do I cite it": ("citing/", "@software"),
}

BOX = "[data-md-component=search-query]"
FIRST = "[...document.querySelector('.md-search-result__item').querySelectorAll('a')].filter(a => a.checkVisibility())"
# From the heading that the address names to the next of its level or a higher one; the page where it names none.
SHOWN = """(() => {
  const start = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!start || start.tagName == 'H1') return document.querySelector('article').innerText;
  let text = start.innerText;
  for (let x = start.nextElementSibling; x && !(/^H[1-6]$/.test(x.tagName) && x.tagName <= start.tagName);
       x = x.nextElementSibling) text += '\\n' + x.textContent;
  return text;
})()"""


@pytest.fixture(scope="module")
def address():
    with served(SITE) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    found = Browser(program())
    yield found
    found.close()


@pytest.fixture(scope="module")
def at_night():
    found = Browser(program())  # one of its own, because the theme keeps its first choice of colours
    yield found
    found.close()


def test_there_are_pages():
    assert {"./", "faq/", "reference/optimizers/", "gallery/"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_on_a_phone_without_a_network(browser, address, page):
    browser.open(address + page, width=390)
    boxes = "[...document.querySelectorAll('math')].map(x => x.getBoundingClientRect())"
    formulas = browser.evaluate(f"{boxes}.map(box => Math.min(box.width, box.height))")
    assert all(size > 1 for size in formulas)
    assert browser.evaluate("document.querySelectorAll('.arithmatex').length") == 0 or formulas
    assert browser.evaluate(r"/\\[([]|\$\$|\\frac|\\beta/.test(document.querySelector('article').innerText)") is False
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    wait = "Promise.all([...document.images].map(x => { x.loading = 'eager'; return x.decode(); })).then(() => true)"
    assert browser.evaluate(wait) is True  # no picture is missing
    assert browser.errors() == []


def test_formulas_are_drawn(browser, address):
    count = 0
    for page in ("kfac/", "reference/roots/", "reference/optimizers/", "reference/orthogonal/"):
        browser.open(address + page)
        count += browser.evaluate("document.querySelectorAll('math').length")
    assert count > 50


@pytest.mark.parametrize("page", ["choosing/", "kfac/", "architecture/"])
def test_at_night_a_picture_has_the_ground_of_the_page(at_night, address, page):
    at_night.open(address + page, dark=True)
    assert at_night.evaluate("document.body.dataset.mdColorScheme") == "slate"
    at_night.evaluate(
        "(x => { x.scrollIntoView({block: 'center'}); return x.decode(); })(document.querySelector('.md-content img'))"
    )
    box = at_night.evaluate("document.querySelector('.md-content img').getBoundingClientRect().toJSON()")
    scroll = at_night.evaluate("[scrollX, scrollY]")
    clip = {
        "x": box["x"] + scroll[0],
        "y": box["y"] + scroll[1],
        "width": box["width"],
        "height": box["height"],
        "scale": 1,
    }
    shot = at_night.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    pixels = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    ground = max(pixels.getcolors(1 << 24))[1]
    page_color = at_night.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert all(abs(a - b) <= 3 for a, b in zip(ground, page_color, strict=True))
    assert max(sum(color) for _, color in pixels.getcolors(1 << 24)) > 3 * 180  # letters are light


def search(browser, address, words):
    """The links of the first result, as they are seen without unfolding anything."""
    browser.open(address)
    browser.evaluate(f"document.querySelector('{BOX}').focus()")
    browser.type(words)
    browser.until("document.querySelectorAll('.md-search-result__item').length > 0")
    before = None
    while (found := browser.evaluate(f"{FIRST}.map(a => a.pathname.slice(1) + a.hash)")) != before:
        before = found
        time.sleep(0.2)  # until nothing changes any more
    return found


@pytest.mark.parametrize("words", QUERIES)
def test_the_search_has_the_right_page_first(browser, address, words):
    assert search(browser, address, words)[0].split("#")[0] == QUERIES[words]


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_click_answers_a_question(browser, address, question):
    page, answer = QUESTIONS[question]
    found = search(browser, address, question)
    link = min(len(found), 2) - 1  # the first section that is shown, or the page
    assert found[link].split("#")[0] == page
    browser.evaluate(f"{FIRST}[{link}].click()")
    browser.until(f"location.pathname == '/{page}' && document.readyState == 'complete'")
    assert answer in " ".join(browser.evaluate(SHOWN).split())


def test_there_are_as_many_as_promised():
    assert len(QUERIES) >= 20
    assert len(QUESTIONS) >= 10
