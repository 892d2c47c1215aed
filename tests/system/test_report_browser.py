"""The page of a run in Debian's Chromium without a window, on a laptop and a phone, in light and in dark."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from kdhooks.report import write_report
from tests.core.report import made_up
from tests.core.report.made_up import record

CHROMIUM = Path("/usr/bin/chromium")
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}
LEAST_CONTRAST = 4.5  # of texts, by the Web Content Accessibility Guidelines, level AA

# Visible pictures: their label, their box on the page, and which of their texts lie over one another or stick out.
PICTURES = """() => [...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).map(svg => {
  const frame = svg.getBoundingClientRect(), faults = [];
  const texts = [...svg.querySelectorAll('text')].map(text => [text.firstChild.data, text.getBoundingClientRect()]);
  texts.forEach(([one, a], at) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
      faults.push(one + ' sticks out');
    texts.slice(at + 1).forEach(([other, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 0.5 && down > 4) faults.push(one + ' over ' + other);  // lines have empty rows above and below
    });
  });
  const shapes = svg.querySelectorAll('path, rect').length;
  return {label: svg.getAttribute('aria-label'), left: frame.left, right: frame.right, width: frame.width,
          height: frame.height, shapes, faults};
})"""

# Texts whose contrast with what is behind them is too small; behind a text of a picture the rectangle drawn last there.
FAINT = """least => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parsed = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data; };
  const light = c => { const [r, g, b] = [c[0], c[1], c[2]].map(v => v / 255).map(
      v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (one, other) => { const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); };
  const behind = element => { for (let at = element; at; at = at.parentElement) {
      const colour = parsed(getComputedStyle(at).backgroundColor); if (colour[3] > 200) return colour; }
    return parsed('white'); };
  const found = [];
  const check = (text, front, back) => { const value = contrast(front, back);
    if (value < least) found.push(text.slice(0, 30) + ': ' + value.toFixed(2)); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) { const text = walker.currentNode, element = text.parentElement;
    if (!text.data.trim() || element.closest('svg') || !element.checkVisibility()) continue;
    check(text.data, parsed(getComputedStyle(element).color), behind(element)); }
  for (const svg of document.querySelectorAll('svg')) {
    if (!svg.checkVisibility()) continue;
    const rects = [...svg.querySelectorAll('rect')].map(rect => [rect, rect.getBoundingClientRect()]);
    for (const text of svg.querySelectorAll('text')) { const box = text.getBoundingClientRect();
      const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
      const under = rects.filter(([, r]) => r.left < x && x < r.right && r.top < y && y < r.bottom).pop();
      const fill = under && getComputedStyle(under[0]).fill;
      const back = fill && fill !== 'none' ? parsed(fill) : behind(svg);
      check(text.textContent, parsed(getComputedStyle(text).fill), back); } }
  return found; }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM.exists(), "Chromium is missing: make test-system installs it"
    with sync_playwright() as programs:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = programs.chromium.launch(executable_path=str(CHROMIUM), args=sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name: a usual run, and one with as much as can be in one."""
    folder = tmp_path_factory.mktemp("pages")
    crowded = record(
        400,
        confusion=made_up.confusion(100),
        similarity=made_up.similarity(30, 70),
        disagreements=made_up.disagreements(30, texts=True),
        models={
            "student": made_up.model(33_000, 1.2, 0.944),
            "a teacher with quite a long name": made_up.model(275_000, 4.9, 0.961),
            "teacher-2": made_up.model(1_275_000, 14.9, 0.9612),
        },
        ledger=None,
        missing={"ledger": "the run was not profiled"},
        status="stopped",
        name="a-very-long-name-of-a-run-that-nobody-would-want-to-read-" * 2,
        device="cuda:0 (" + "x" * 80 + ")",
    )
    runs: dict[str, Any] = {"usual": record(100), "crowded": crowded}
    return {name: write_report(run, folder / f"{name}.html") for name, run in runs.items()}


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def view(request: pytest.FixtureRequest, browser: Browser) -> Iterator[tuple[Page, str, str, list[str]]]:
    """An empty page of a size in a scheme, and a list that gets everything that it asks for or complains of."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, events = context.new_page(), list[str]()
    page.on("request", lambda sent: events.append(sent.url) if not sent.url.startswith("data:image/png;") else None)
    page.on("console", lambda message: events.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: events.append(f"error: {error}"))
    yield page, size, scheme, events
    context.close()


@pytest.mark.parametrize("name", ["usual", "crowded"])
def test_the_page_reads_well(view: tuple[Page, str, str, list[str]], files: dict[str, Path], name: str) -> None:
    page, size, scheme, events = view
    page.goto(files[name].as_uri())
    assert events == [files[name].as_uri()]  # itself, and nothing from elsewhere
    width = SIZES[size][0]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    pictures = page.evaluate(PICTURES)
    labels = [picture["label"] for picture in pictures]
    assert labels.count("accuracy per epoch") == 1  # of the two that the page has, one for each kind of screen
    assert len(labels) == len(set(labels)) == (15 if name == "usual" else 14)
    for picture in pictures:
        assert picture["width"] > 250 and picture["height"] > 50 and picture["shapes"] > 0, picture
        assert picture["left"] >= 0 and picture["right"] <= width, picture
    assert [(picture["label"], picture["faults"]) for picture in pictures if picture["faults"]] == []
    assert page.evaluate(FAINT, LEAST_CONTRAST) == []
    looked_at(page.screenshot(full_page=True), width, dark=scheme == "dark")


def looked_at(png: bytes, width: int, *, dark: bool) -> None:
    """The screenshot is one of a page of this width, in the right scheme, with colours on it."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.width == width and picture.height > 3000
    grey = picture.convert("L").resize((1, 1)).getpixel((0, 0))
    assert isinstance(grey, int) and (grey < 90 if dark else grey > 200)
    pixels = np.asarray(picture, int)
    assert (pixels[..., 2] > pixels[..., 0] + 60).mean() > 0.003  # blue: bars, curves, heat maps


def test_pictures_of_samples_are_shown(browser: Browser, files: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(files["usual"].as_uri())
    sizes = page.evaluate("[...document.images].map(one => [one.naturalWidth, one.naturalHeight])")
    assert sizes == [[8, 8]] * 8
    page.close()


def test_links_lead_to_their_sections(browser: Browser, files: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(files["usual"].as_uri())
    page.get_by_role("link", name="Layer similarity").click()
    expect(page.locator("#similarity h2")).to_be_in_viewport()
    assert page.evaluate("location.hash") == "#similarity"
    page.close()


def test_a_printed_page_has_the_folded_parts(browser: Browser, files: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(files["usual"].as_uri())
    row = "document.querySelector('details table tbody tr').checkVisibility({contentVisibilityAuto: true})"
    assert not page.evaluate(row)
    page.emulate_media(media="print")
    assert page.evaluate(row)
    assert len(page.pdf()) > 100_000
    page.close()
