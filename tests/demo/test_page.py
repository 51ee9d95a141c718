"""The page in a browser, as a visitor uses it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from igll.data.files import read_mask
from igll.demo.fill import write_example

pytest.importorskip("gradio", reason="gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome")

RNG = np.random.default_rng(5)
HEIGHT, WIDTH = 300, 420
COLOUR = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)  # alpha too, transparent pixels among it
HOLE = np.zeros((HEIGHT, WIDTH), dtype=bool)
HOLE[40:90, 100:200] = True


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The page of the entry point in a process of its own, which leaves no file behind."""
    temporary = tmp_path_factory.mktemp("demo")
    process = subprocess.Popen(
        [sys.executable, "-c", "from igll.cli import demo; demo()", "--method", "harmonic"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found is not None
        yield found.group()
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 143
    assert not any(temporary.iterdir())


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(address, browser):
    """The page, loaded; nothing but its own server can be reached, and nothing else is asked for."""
    asked: set[str | None] = set()

    def pass_own(route) -> None:
        host = urlsplit(route.request.url).hostname
        asked.add(host)
        if host == "127.0.0.1":
            route.continue_()
        else:
            route.abort()

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(30_000)
    context.route(re.compile("^(http|ws)"), pass_own)
    opened = context.new_page()
    opened.goto(address)
    opened.locator("#fill").wait_for()
    yield opened
    context.close()
    assert asked == {"127.0.0.1"}


def fill(page) -> str:
    """Press Fill and wait for the status to change."""
    page.locator("#status").evaluate("element => { element.querySelector('p').textContent = '' }")
    page.locator("#fill").click()
    told = page.locator("#status p").filter(has_text=re.compile("filled"))
    told.wait_for()
    return told.inner_text()


def download(page, button: str) -> Path:
    with page.expect_download() as started:
        page.locator(button).click()
    path = Path(started.value.path())
    return path.rename(path.with_name(started.value.suggested_filename))


def paint(page) -> None:
    """Draw a stroke across the middle of the picture, once the editor shows it."""
    canvas = page.locator("#editor canvas").first
    page.locator("#editor button[aria-label=Undo]:not([disabled])").wait_for()
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=6)
    page.mouse.up()
    page.wait_for_timeout(300)


def test_example_with_a_painted_stroke_is_filled_and_downloaded(page, tmp_path):
    page.get_by_role("button", name="Example: Coast").click()
    paint(page)
    status = fill(page)
    image, cloud = write_example("Coast", tmp_path)
    filled, mask = download(page, "#filled"), download(page, "#filled-mask")
    assert (filled.name, mask.name) == ("coast_filled.png", "coast_mask.png")
    hole_HW, cloud_HW = read_mask(mask), read_mask(cloud)
    assert hole_HW[cloud_HW].all()
    stroke_HW = hole_HW & ~cloud_HW
    assert stroke_HW[192, 192] and not stroke_HW[:96].any()  # across the middle of 384 x 384
    before, after = np.asarray(Image.open(image)), np.asarray(Image.open(filled))
    assert np.array_equal(after[~hole_HW], before[~hole_HW])
    assert (after[stroke_HW] != before[stroke_HW]).any()
    assert status.startswith(f"{hole_HW.sum():,} pixels filled ({100 * hole_HW.mean():.1f} % of the image)")
    assert "harmonic (Laplace)" in status and "plausible, not measured" in status


def test_uploads_are_filled_and_mistakes_are_told_without_an_end(page, tmp_path):
    assert fill(page) == "Nothing was filled: no image yet; choose a file or an example."
    files = {name: tmp_path / f"{name}.png" for name in ("scene", "mask", "small", "broken")}
    Image.fromarray(COLOUR).save(files["scene"])
    Image.fromarray(HOLE).save(files["mask"])
    Image.fromarray(HOLE[:100]).save(files["small"])
    files["broken"].write_bytes(b"no image")

    page.locator("#image input[type=file]").set_input_files(files["broken"])
    page.get_by_text("broken.png: not an image in a known format").wait_for()
    page.locator("#image input[type=file]").set_input_files(files["scene"])
    page.locator("#editor canvas").first.wait_for()
    nothing = "Nothing was filled: no hole yet; paint over what is to be filled, or add a mask file."
    assert fill(page) == nothing
    page.get_by_role("alert").or_(page.get_by_test_id("toast-body")).filter(
        has_text="no hole yet"
    ).first.wait_for()
    page.locator("#mask input[type=file]").set_input_files(files["small"])
    page.get_by_text("small.png: the mask has 420 × 100 pixels, the image 420 × 300").wait_for()

    page.locator("#mask input[type=file]").set_input_files(files["mask"])
    page.locator("#mask").get_by_text("mask").first.wait_for()
    assert fill(page).startswith(f"{HOLE.sum():,} pixels filled")
    filled = download(page, "#filled")
    assert filled.name == "scene_filled.png"
    assert np.array_equal(read_mask(download(page, "#filled-mask")), HOLE)
    after = np.asarray(Image.open(filled))
    assert np.array_equal(after[~HOLE], COLOUR[~HOLE])
    assert (after[HOLE] != COLOUR[HOLE]).any(axis=1).mean() > 0.9
