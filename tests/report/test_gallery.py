"""The gallery: what its page says, and what a browser makes of it."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lapml.report import gallery, tiles
from lapml.report.gallery import Mix, Pair

HOSTILE = '001.<u>&"'  # a class that would break a page which did not escape it
METHODS = ("mixup", "snapmix", "attentive_cutmix", "loc_cutmix")
BROKEN = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"  # a PNG cut off in its head
LISTEN = """<script>
window.problems = [];
for (const level of ["error", "warn"]) console[level] = (...words) => problems.push(level + ": " + words.join(" "));
addEventListener("error", (event) => problems.push("error: " + (event.message || event.target.tagName)), true);
addEventListener("unhandledrejection", (event) => problems.push("rejection: " + event.reason));
</script>"""
# Leafs through the page by its own controls; of each pair that it sees it notes the number and the broken pictures.
PROBE = """<script>
const shown = (selector) => [...document.querySelectorAll(selector)].filter((each) => each.getClientRects().length);
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const opens = (href) => new Promise((done) => {
  const image = new Image();
  image.onload = () => done(image.naturalWidth > 0);
  image.onerror = () => done(false);
  image.src = href;
});
async function look() {
  const [pair, ...others] = shown(".pair");
  const images = [...pair.querySelectorAll("image")], uses = [...pair.querySelectorAll("use")];
  const good = await Promise.all(images.map((each) => opens(each.getAttribute("href"))));
  const lost = uses.filter((each) => !pair.querySelector(each.getAttribute("href")) || !each.getBBox().width);
  return { pair: Number(pair.id), others: others.length, pictures: images.length + uses.length,
           bad: good.filter((each) => !each).length + lost.length, hash: location.hash,
           listed: Number(document.getElementById("list").value) };
}
addEventListener("load", async () => {
  const found = { first: await look(), clicked: [], pressed: [], layers: {}, problems,
                  controls: shown("#previous, #next, #list").length };
  const button = (id) => document.getElementById(id);
  const list = button("list");
  const go = (number) => { list.value = number; list.dispatchEvent(new Event("change")); };
  go(1);
  found.ends = [button("previous").disabled, button("next").disabled];
  for (let k = 0; k < list.length; k++) {
    found.clicked.push(await look());
    if (k < list.length - 1) button("next").click();
  }
  found.ends.push(button("previous").disabled, button("next").disabled);
  button("previous").click();
  found.back = (await look()).pair;
  go(1);
  for (let k = 0; k < list.length + 1; k++) { found.pressed.push((await look()).pair); press("ArrowRight"); }
  press("ArrowLeft");
  found.left = (await look()).pair;
  location.hash = "#2";
  await new Promise((done) => setTimeout(done, 50));
  found.linked = (await look()).pair;
  go(1);
  for (const [id, selector, key] of [["boxes", ".boxes", "b"], ["maps", ".map", "m"], ["objects", ".object-box", "o"]]) {
    const counts = [shown(selector).length];
    button(id).click(); counts.push(shown(selector).length);
    press(key); counts.push(shown(selector).length);
    found.layers[id] = counts;
  }
  report(found);
});
</script>"""


def _mix(rng: np.random.Generator, method: str, side: int) -> Mix:
    draw = rng.random((2, 4, 4))
    maps = draw / draw.sum((1, 2), keepdims=True)
    mix = Mix(
        method, f"how {method} mixes", _noise(rng, side), (2, 3, 10, 12), (5, 4, 13, 13), None, *maps, 0.81, 0.7, 0.3, 0.1,
        0.25, [],
    )  # fmt: skip
    if method == "mixup":
        return replace(mix, box_to=None, box_from=None, reference_map=None, donor_map=None, similarity=None)
    if method == "snapmix":
        return replace(mix, kept=1.42, pasted=1.42, truth=None, flags=["ghost label", "<meaningless>"])
    if method == "attentive_cutmix":
        return replace(mix, box_to=None, box_from=None, cells=maps[1] > np.median(maps[1]))
    return mix


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Three pairs by four methods; the last pair's pictures are large enough to be JPEGs."""
    rng = np.random.default_rng(0)
    made = []
    for number, side in enumerate((16, 20, 120)):
        mixes = [_mix(rng, method, side) for method in METHODS]
        names = (HOSTILE, f"{number:03}.Black_footed_Albatross")
        made.append(Pair(_noise(rng, side), _noise(rng, side), *names, (1, 1, 12, 14), (2, 2, 15, 15), mixes))
    return made


@pytest.fixture(scope="module")
def html(pairs) -> str:
    return gallery.page("A gallery & more", "of <three> pairs", pairs, synthetic=True)


class Elements(HTMLParser):
    """All elements of a page: (tag, attributes)."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str | None]]:
        return [own for name, own in self.found if name == tag and kind in (None, *(own.get("class") or "").split())]


def test_page_holds_every_pair_and_mix(html, pairs):
    page = Elements(html)
    assert [pair["id"] for pair in page.all("section", "pair")] == ["1", "2", "3"]
    assert len(page.all("article", "card")) == 3 * 4 and len(page.all("option")) == 3
    for method in METHODS:
        assert html.count(f"<h3>{method}</h3>") == html.count(f'<p class="soft">how {method} mixes</p>') == 3
    assert html.index('<meta name="lapml-images" content="data">') < html.index("</head>")
    assert "synthetic; they are not photographs" in html
    photographs = gallery.page("", "", pairs, synthetic=False)
    assert "The pictures are photographs." in photographs and "synthetic" not in photographs


def test_text_is_escaped(html):
    assert "<u>" not in html and "<three>" not in html and "<meaningless>" not in html
    assert html.count("&lt;meaningless&gt;") == 3 and "A gallery &amp; more" in html
    labels = [each["aria-label"] or "" for each in Elements(html).all("svg") if "aria-label" in each]
    assert len(labels) == 3 * 4 * 3 and all('<u>&"' in label for label in labels if label.startswith("Reference"))
    assert labels[1] == "Donor: Black footed Albatross, with what mixup takes"


def test_page_asks_nobody(html):
    for _, attributes in Elements(html).found:
        assert "src" not in attributes and re.match(r"data:|#|$", attributes.get("href") or "")
    rest = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)
    assert not re.search(r"//\w|url\(|@import|fetch\(", rest)


def test_nothing_is_hidden_by_markup_alone(html):
    for tag, attributes in Elements(html).found:
        assert "hidden" not in attributes and "display" not in (attributes.get("style") or ""), tag
    style = html[html.index("<style>") : html.index("</style>")]
    hiding = [rule for rule in re.findall(r"([^{}]*){[^}]*display: none", style) if ".pair" in rule]
    assert [rule.strip() for rule in hiding] == [":root.live .pair:not(.current)"]  # the script makes the root live


def test_pictures_are_embedded_once_and_true(html, pairs):
    addresses = [each["href"] or "" for each in Elements(html).all("image") if each.get("class") != "map"]
    assert len(addresses) == 3 * (2 + 4) == len(set(addresses)) and all(html.count(each) == 1 for each in addresses)
    wanted = [picture for pair in pairs for picture in (pair.reference, pair.donor, *(mix.image for mix in pair.mixes))]
    for address, pixels in zip(addresses, wanted, strict=True):
        head, data = address.split(",")
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert found.shape == pixels.shape
        if len(pixels) <= tiles.LOSSLESS:
            assert head == "data:image/png;base64" and (found == pixels).all()
        else:
            assert head == "data:image/jpeg;base64"


def test_numbers(html):
    assert html.count("<dt>s</dt><dd>0.81</dd>") == 9 == html.count("<dt>s</dt>")
    assert html.count("<dt>area</dt><dd>10 %</dd>") == 12
    assert html.count("<dt>true share</dt>") == 9
    assert html.count("<dt>true share</dt><dd>0.25</dd>") == 9 == html.count('<i class="truth" style="left: 25.0%">')
    assert html.count("<dt>weights sum to</dt><dd>2.84</dd>") == 3
    assert html.count('style="width: 70.0%"') == 9 == html.count('style="width: 30.0%"')
    assert html.count('<i class="one" style="width: 70.42%">') == 2 * 3 and html.count("width: 100.0%") == 2 * 3


def test_nothing_is_said_of_what_no_box_can_tell(pairs):
    """Of a data set without boxes."""
    unknown = [
        replace(
            each, box_reference=None, box_donor=None, mixes=[replace(mix, truth=None, flags=[]) for mix in each.mixes]
        )
        for each in pairs
    ]
    html = gallery.page("A gallery", "of pairs", unknown, synthetic=False)
    for word in ("true share", "Upright tick", "meaningless", "obscured", "ghost label", 'class="object-box'):
        assert word not in html, word


def test_outline_runs_between_pasted_cells_and_others():
    cells = np.array([[True, False], [True, False]])
    path = tiles.outline(None, cells, (10, 20, 3))
    assert path == "M0 0H10M0 0V5M10 0V5M0 10H10M0 5V10M10 5V10"
    draw = np.random.default_rng(0).random((7, 7)) < 0.4
    padded = np.pad(draw, 1).astype(int)
    sides = sum(int(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1))
    assert tiles.outline(None, draw, (70, 70, 3)).count("M") == sides
    assert tiles.outline((1, 2.5, 3, 4), None, (9, 9, 3)) == "M1 2.5H3V4H1Z"
    assert tiles.outline((1, 2, 1, 4), None, (9, 9, 3)) is None is tiles.outline(None, ~cells & cells, (9, 9, 3))


@pytest.mark.parametrize("heat", [np.array([[0.0, 0.2], [0.3, 0.5]]), np.zeros((2, 2)), np.full((2, 2), np.nan)])
def test_glow_is_opaque_by_the_share_of_the_highest_cell(heat):
    address = tiles.glow(heat)
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))[..., 3] / 255
    expected = np.nan_to_num(heat) / max(np.nan_to_num(heat).max(), 1e-9)
    assert np.allclose(alpha, tiles.GLOW * expected, atol=1 / 255)


def _probed(html: str) -> str:
    return html.replace("<head>", f"<head>{LISTEN}", 1).replace("</body>", f"{PROBE}</body>")


def test_browser_leafs_through_every_pair(browse, html):
    found, console = browse(_probed(html))
    assert found["problems"] == [] and console == []
    assert found["controls"] == 3
    clicked = found["clicked"]
    assert [each["pair"] for each in clicked] == [each["listed"] for each in clicked] == [1, 2, 3]
    assert [each["hash"] for each in clicked] == ["#1", "#2", "#3"]
    assert all(each["others"] == 0 and each["bad"] == 0 for each in clicked)
    assert [each["pictures"] for each in clicked] == [2 + 4 + 2 * 4 + 2 * 3] * 3  # own, generated, reused, maps
    assert found["ends"] == [True, False, False, True] and found["back"] == 2
    assert found["pressed"] == [1, 2, 3, 3] and found["left"] == 2 and found["linked"] == 2
    assert found["layers"] == {"boxes": [9, 0, 9], "maps": [6, 0, 6], "objects": [0, 8, 0]}


@pytest.mark.parametrize(
    ("fragment", "pair"), [("#3", 3), ("#0", 1), ("#4", 1), ("#-1", 1), ("#2.5", 1), ("#%E0%A4%A", 1), ("#list", 1)]
)
def test_fragment_opens_its_pair_or_the_first(browse, html, fragment, pair):
    found, console = browse(_probed(html), fragment)
    assert found["first"]["pair"] == found["first"]["listed"] == pair
    assert found["problems"] == [] and console == []


@pytest.mark.parametrize("broken", ["reference", "generated", "map"])
def test_broken_picture_is_noticed(browse, html, broken):
    images = Elements(html).all("image")
    kind = {"reference": lambda each: each.get("id") == "reference-2", "map": lambda each: each.get("class") == "map",
            "generated": lambda each: "id" not in each and "class" not in each}  # fmt: skip
    address = next(filter(kind[broken], images))["href"]
    assert address
    found, _ = browse(_probed(html.replace(address, BROKEN)))
    assert [each["bad"] for each in found["clicked"]] == ([0, 1, 0] if broken == "reference" else [1, 0, 0])


@pytest.mark.parametrize("fault", ["console.error('no')", "throw new Error('no')", "Promise.reject('no')"])
def test_script_error_is_noticed(browse, html, fault):
    found, _ = browse(_probed(html.replace("</main>", f"</main><script>{fault}</script>")))
    assert len(found["problems"]) == 1 and "no" in found["problems"][0]
    report = "<script>document.body.innerHTML = '<pre id=\"found\">{}</pre>'</script></body>"
    _, console = browse(html.replace("</body>", f"<script>{fault}</script>{report}"))
    assert len(console) == 1


def test_phone_does_not_scroll_sideways(browse, framed, html):
    script = "const root = inner.documentElement; report([root.clientWidth, root.scrollWidth]);"
    found, console = browse(framed(html, 'width="390" height="844" style="border: 0"', script))
    assert found[1] <= found[0] <= 390 and console == []


def test_without_script_all_pairs_are_shown(browse, framed, html):
    script = """const rects = (each) => each.getClientRects().length;
    const seen = (selector) => [...inner.querySelectorAll(selector)].filter(rects).length;
    const before = [seen(".pair"), seen(".card"), seen(".leaf"), seen(".boxes")];
    inner.getElementById("boxes").checked = false;
    report([...before, seen(".boxes")]);"""
    found, _ = browse(framed(html, 'sandbox="allow-same-origin"', script))
    assert found == [3, 12, 0, 27, 0]
