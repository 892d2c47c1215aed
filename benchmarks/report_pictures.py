"""Pictures of a run's page for docs/report.md: a laptop in light, and a phone in dark as columns side by side.

    python -m benchmarks.report_pictures .kdhooks/fashion-resnet/report.html docs

Needs Debian's chromium, playwright and pillow.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"
LAPTOP, PHONE = (1280, 2140), (390, 1500)
COLUMNS, GAP = 4, 24


def shot(browser: Browser, page: Path, width: int, scheme: str) -> Image.Image:
    """The whole page."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.goto(page.resolve().as_uri())
    picture = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
    context.close()
    return picture


def columns(picture: Image.Image, height: int) -> Image.Image:
    """The beginning of a long picture as columns."""
    count = min(COLUMNS, -(-picture.height // height))
    sheet = Image.new("RGB", (count * (picture.width + GAP) - GAP, height), "#808080")
    for at in range(count):
        part = picture.crop((0, at * height, picture.width, min(picture.height, (at + 1) * height)))
        sheet.paste(part, (at * (picture.width + GAP), 0))
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    # a palette that covers rare colours too, as that of a thin line is
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description="pictures of the page of a run")
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    with sync_playwright() as programs:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = programs.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        laptop = shot(browser, options.page, LAPTOP[0], "light")
        save(laptop.crop((0, 0, *LAPTOP)), options.folder / "report-laptop.png")
        save(columns(shot(browser, options.page, PHONE[0], "dark"), PHONE[1]), options.folder / "report-phone.png")
        browser.close()


if __name__ == "__main__":
    main()
