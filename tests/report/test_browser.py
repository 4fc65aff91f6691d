"""The page of a report in a browser: its tables are sorted, nothing is cut off on a phone, and all text can be read in either
colour scheme."""

import re
from dataclasses import replace

import pytest

from lapml.analysis import tables
from lapml.report import page

LONG = "Grünspecht-mit-einem-sehr-langen-Namen_der_nicht_enden_will"
SCHEMES = {"dark": "0", "light": "1"}  # Chromium's preferredColorScheme
LISTEN = "<script>window.problems = []; addEventListener('error', (event) => problems.push(event.message));</script>"
MAIN = """
const table = document.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
const rows = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
const column = (at) => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
"""
CONTRASTS = """
// The least contrast (WCAG 2) of any text to what it stands on, and the text.
const numbers = (colour) => {
  const found = colour.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number), wide = colour.startsWith("color(srgb");
  return [...found.slice(0, 3).map((each) => wide ? each : each / 255), found[3] ?? 1];
};
const luminance = (rgb) => rgb.slice(0, 3).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
const ground = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const found = numbers(getComputedStyle(each).backgroundColor);
    if (found[3] === 1) return found;
    if (found[3] > 0) throw new Error("a ground that is half transparent: " + each.outerHTML.slice(0, 80));
  }
  throw new Error("no ground");
};
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((each) => each.open = true);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    if (!words || element.closest("svg, script")) continue;
    const [one, other] = [luminance(numbers(getComputedStyle(element).color)), luminance(ground(element))];
    found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), element.outerHTML.slice(0, 120)]);
  }
  found.sort((a, b) => a[0] - b[0]);
  report({ least: found[0], count: found.length, ground: numbers(getComputedStyle(document.body).backgroundColor), problems });
});
"""


@pytest.fixture(scope="module")
def html(original, galleries) -> str:
    """A page with everything that a page can have."""
    params, paths = original
    runs = tables.collect(params, paths)
    table = tables.accuracy(runs, tables.predictions(params, paths), params)
    tuned = {"birds": {name: tables.tuned_record(params, paths, "birds", name) for name in params.tuned_methods}}
    names = [f"{label:03}.{LONG}" for label in range(7)]
    answers = tables.predictions(params, paths)
    answers = {method: replace(answers["birds", method], names=names) for method in params.all_methods()}
    chart = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="
    diagnosis = {
        "heads": ["method", *(f"a metric of mixed images {k} %" for k in range(8))],
        "rows": [[f"a_mixer_with_a_long_name_{k}", *["12.3 [10.1, 14.5]"] * 8] for k in range(3)],
        "maps": [["pointing game %", "1.0", "2.0"]], "localiser_heads": ["localiser", "a %"], "localisers": [["maps", "3.0"]],
        "verdicts": ["meaningless: holds."], "note": LONG * 3, "mixes": True, "figures": {"quality": chart, "labels": chart},
        "links": {"../diagnosis/birds/diagnosis.csv": "csv"}, "gallery": "../diagnosis/birds/gallery.html",
    }  # fmt: skip
    return page.build(
        params,
        f"suite: {'x' * 300}",
        runs,
        tables.histories(params, paths),
        table,
        tuned,
        {"birds": galleries("birds")},
        [f"train.lr: used {LONG * 3}"],
        {"birds": diagnosis},
        f"# {LONG} {LONG}\n#   run:  snakemake {LONG * 4}\n",
        answers={"birds": answers},
    )


def probed(html: str, script: str) -> str:
    return html.replace("<head>", f"<head>{LISTEN}", 1).replace("</body>", f"<script>{script}</script></body>")


def test_a_p_that_is_only_bounded_sorts_as_a_number(browse, html):
    cells = ["0.02", "< 0.001", "0.13", "–", "0.0012", "1.00"]
    table = "".join(f"<tr><td>{cell}</td></tr>" for cell in cells)
    table = f'<table class="sortable"><thead><tr><th>p</th></tr></thead><tbody>{table}</tbody></table>'
    script = """addEventListener("load", () => {
      heads[0].querySelector("button").click();
      report({ turn: heads[0].getAttribute("aria-sort"), cells: rows(), problems });
    });"""
    page = html.replace("<section>", f"{table}<section>", 1)
    assert page.index(table) < html.index('class="sortable"')
    found, _ = browse(probed(page, MAIN + script))
    assert found == {"turn": "descending", "cells": ["1.00", "0.13", "0.02", "0.0012", "< 0.001", "–"], "problems": []}


def test_a_click_on_a_heading_sorts(browse, html):
    script = """addEventListener("load", () => {
      const found = { first: rows(), problems, turns: [], others: [] };
      for (const [at, clicks] of [[1, 3], [6, 2], [0, 1]]) {
        const button = heads[at].querySelector("button");
        for (let k = 0; k < clicks; k++) {
          button.focus();
          button.click();
          found.turns.push([heads[at].getAttribute("aria-sort"), rows(), column(at), document.activeElement === button]);
        }
        found.others.push(heads.filter((each) => each.getAttribute("aria-sort") !== "none").length);
      }
      found.tables = document.querySelectorAll("table.sortable").length;
      found.buttons = document.querySelectorAll("table.sortable thead th > button[type=button]").length;
      found.heads = document.querySelectorAll("table.sortable thead th").length;
      report(found);
    });"""
    found, console = browse(probed(html, MAIN + script))
    assert found["problems"] == [] and console == []
    assert found["tables"] >= 6 and found["buttons"] == found["heads"]
    assert [turn[0] for turn in found["turns"]] == [
        "descending",
        "ascending",
        "none",
        "descending",
        "ascending",
        "ascending",
    ]
    assert all(turn[3] for turn in found["turns"]) and found["others"] == [
        0,
        1,
        1,
    ]  # the focus stays, one column is sorted

    def numbers(cells: list[str]) -> list[float]:
        return [float(re.match(r"[+−]?[\d.]+", cell)[0].replace("−", "-")) for cell in cells if cell != "–"]

    falling, rising, as_it_came, *gains, by_name = found["turns"]
    assert numbers(falling[2]) == sorted(numbers(falling[2]), reverse=True) == numbers(rising[2])[::-1]
    assert as_it_came[1] == found["first"] == ["baseline", "cutmix", "loc_cutmix", "margin", "adaptive_margin"]
    for turn in gains:  # over the baseline, which has no gain over itself and stays last
        assert turn[2][-1] == "–" and turn[1][-1] == "baseline"
    assert numbers(gains[0][2]) == sorted(numbers(gains[0][2]), reverse=True)
    assert by_name[1] == sorted(found["first"])


def test_without_script_the_page_is_whole(browse, framed, html):
    script = """const rects = (each) => each.getClientRects().length;
    const seen = (selector) => [...inner.querySelectorAll(selector)].filter(rects).length;
    report([seen("thead button"), seen("section"), seen("table.sortable"), seen("tbody tr"), seen("a")]);"""
    buttons, *without = browse(framed(html, 'sandbox="allow-same-origin"', script))[0]
    assert buttons == 0
    assert without == browse(framed(html, "", script))[0][1:] and min(without) > 3


def test_nothing_is_cut_off_on_a_phone(browse, framed, html):
    """The page does not scroll sideways; what is wider than the screen scrolls in a box of its own."""
    script = """inner.querySelectorAll("details").forEach((each) => each.open = true);
    const root = inner.documentElement, width = root.clientWidth, out = [], boxes = [...inner.querySelectorAll(".box, pre")];
    for (const each of inner.querySelectorAll("body *")) {
      const { right, left, width: own } = each.getBoundingClientRect();
      const beyond = own && (right > width + 1 || left < -1);
      if (beyond && !each.parentElement.closest(".box, pre, svg")) out.push(each.outerHTML.slice(0, 100));
    }
    const scrolling = boxes.filter((each) => each.scrollWidth > each.clientWidth + 1);
    const stuck = scrolling.filter((each) => inner.defaultView.getComputedStyle(each).overflowX !== "auto");
    const silent = boxes.filter((each) => each.matches(".box") && (each.tabIndex !== 0 || !each.getAttribute("aria-label")));
    report({ width, scrolls: root.scrollWidth, out, scrolling: scrolling.length, stuck: stuck.length, silent: silent.length });"""
    found, console = browse(framed(html, 'width="390" height="844" style="border: 0"', script))
    assert found["scrolls"] <= found["width"] <= 390 and console == []
    assert found["out"] == [] and found["scrolling"] > 3 and found["stuck"] == found["silent"] == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_can_be_read(browse, html, scheme):
    found, console = browse(probed(html, CONTRASTS), "", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}")
    assert found["problems"] == [] and console == []
    assert (found["ground"][0] < 0.2) == (scheme == "dark") and found["count"] > 200
    assert found["least"][0] >= 4.5, found["least"]


def test_text_that_cannot_be_read_is_noticed(browse, html):
    pale = html.replace("</style>", ".matrix td { color: #999; }</style>", 1)
    assert browse(probed(pale, CONTRASTS))[0]["least"][0] < 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_charts_stand_on_the_pages_ground(browse, html, scheme):
    """A chart is white and inverted in the dark; so is the key of a method's colour."""
    script = """addEventListener("load", () => report([...document.querySelectorAll("img.chart, .key")]
      .map((each) => getComputedStyle(each).filter)));"""
    found, _ = browse(probed(html, script), "", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}")
    assert len(found) > 10 and set(found) == {"none" if scheme == "light" else "invert(0.9) hue-rotate(180deg)"}
