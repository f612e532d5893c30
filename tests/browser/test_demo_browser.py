"""The demo in a real browser: upload, wait, look, move, relight, download, and nothing leaves."""

import io
import os
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from helpers.demo_server import running_demo
from lifemask.apps.photos import sample_photo
from lifemask.graphics.meshio import read_glb

pytestmark = pytest.mark.slow
FLAGS = (
    "--no-sandbox --disable-gpu --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic"
    " --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE_MS = 240_000
HARMLESS = ("GL Driver Message", "Method not implemented")
"""What Chromium itself says when it draws without a GPU."""


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None and not os.environ.get("LIFEMASK_REQUIRE_BROWSER"):
        pytest.skip("neither chromium nor google-chrome is installed")
    assert found, "LIFEMASK_REQUIRE_BROWSER is set, and there is no chromium"
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as run:
        launched = run.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    pytest.importorskip("gradio")
    with running_demo(tmp_path_factory.mktemp("demo"), "--max-upload-mb", "2") as served:
        yield served


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(sample_photo()).save(path)
    return path


class Watched:
    """A page, and everything it asked for or complained about."""

    def __init__(self, browser, url: str, **context) -> None:
        self.context = browser.new_context(viewport={"width": 1360, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self.page.goto(url)
        self.page.wait_for_selector("#go")
        self.viewer = self.page.frame_locator("#viewer iframe")

    def _note(self, message) -> None:
        harmless = any(words in message.text for words in HARMLESS)
        if message.type in ("error", "warning") and not harmless:
            self.complaints.append(message.text)

    def canvas(self) -> np.ndarray:
        """The stage as pixels, (H, W, 3) in [0, 255]."""
        picture = Image.open(io.BytesIO(self.viewer.locator("#canvas").screenshot()))
        return np.asarray(picture.convert("RGB")).astype(float)

    def click(self, selector: str) -> None:
        """A click that does not wait for the head to stand still."""
        self.viewer.locator(selector).evaluate("element => element.click()")

    def settle(self) -> None:
        """Wait until something has been drawn since now."""
        frames = "Number(document.body.dataset.frames || 0)"
        body = self.viewer.locator("body")
        before = body.evaluate(f"() => {frames}")
        body.evaluate(
            f"(body, before) => new Promise(done => {{ const ask = () => {frames} > before ?"
            " done() : setTimeout(ask, 20); setTimeout(done, 3000); ask(); })",
            before,
        )
        self.page.wait_for_timeout(150)


def middle(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[int(0.4 * height) : int(0.55 * height), int(0.42 * width) : int(0.58 * width)]


def test_a_photo_becomes_a_head_that_turns_moves_and_can_be_kept(browser, demo, sample, tmp_path):
    seen = Watched(browser, demo.url)
    seen.page.set_input_files("#photo input[type=file]", sample)
    viewer = seen.viewer
    viewer.locator('body[data-heads="1"]').wait_for()

    # it is there, looks like skin, and turns
    seen.settle()
    first = seen.canvas()
    red, green, blue = middle(first).mean((0, 1))
    assert red > green > blue and red > 90, (red, green, blue)
    assert first.std() > 20
    seen.page.wait_for_timeout(1500)
    seen.settle()
    assert np.abs(seen.canvas() - first).max() > 60, "the head turns"

    # stop, front view
    seen.click("#turn")
    seen.click("#reset")
    seen.settle()
    still = seen.canvas()
    assert np.abs(seen.canvas() - still).max() < 3, "the head stands still"

    # a slider moves the mesh where the mouth is, and not the brow
    seen.click("#tab-face")
    viewer.locator("#search").fill("jaw open")
    viewer.locator("#w-jawOpen").fill("0.9")
    seen.settle()
    change = np.abs(seen.canvas() - still).max(2)
    height, width = change.shape
    columns = slice(int(0.4 * width), int(0.6 * width))
    mouth = change[int(0.55 * height) : int(0.85 * height), columns]
    brow = change[int(0.2 * height) : int(0.38 * height), columns]
    assert (mouth > 25).mean() > 0.1 > (brow > 25).mean()
    seen.click("#from-photo")
    seen.settle()
    assert np.abs(seen.canvas() - still).mean() < 1, "back to the photo"

    # other light
    seen.click("#tab-look")
    seen.click("#lights [data-value=neon]")
    viewer.locator('body[data-light="neon"]').wait_for()
    seen.settle()
    neon = seen.canvas()
    assert np.abs(middle(neon) - middle(still)).mean() > 15
    seen.click("#modes [data-value=normals]")
    seen.settle()
    assert middle(seen.canvas())[..., 2].mean() > 180, "normals that face us are blue"

    # the files are there and hold what they say
    viewer.locator('body[data-complete="true"]').wait_for()
    seen.click("#tab-result")
    with seen.page.expect_download() as begun:
        seen.click(".downloads a.main")
    kept = tmp_path / "head.glb"
    begun.value.save_as(kept)
    assert begun.value.suggested_filename == "astronaut-pgn-head.glb"
    scene = read_glb(kept)
    scene.check()
    assert len(scene.morph_targets) == 52 and len(scene.positions_mm) > 4000
    assert viewer.locator(".downloads a").count() == 4

    assert all(_is_ours(url, demo.url) for url in seen.requests), seen.requests
    assert not seen.complaints, seen.complaints

    # the page is closed: photo and head go away
    assert demo.results and demo.uploads
    with zipfile.ZipFile(demo.results[0] / "pgn" / "textures.zip") as textures:
        assert {"skin.png", "skin_normal.png", "eyes.png"} <= set(textures.namelist())
    seen.context.close()
    for _ in range(300):
        if not demo.results and not demo.uploads:
            break
        time.sleep(0.1)
    assert not demo.results, "the heads were not deleted"
    assert not demo.uploads, "the photo was not deleted"


def test_what_is_no_photo_is_told_in_one_line(browser, demo, tmp_path):
    seen = Watched(browser, demo.url)
    path = tmp_path / "wall.png"
    Image.new("RGB", (300, 300), (120, 130, 140)).save(path)
    seen.page.set_input_files("#photo input[type=file]", path)
    line = seen.page.locator("#status [role=alert]")
    line.wait_for()
    assert line.inner_text().startswith("No face was found in this photo")
    assert all(_is_ours(url, demo.url) for url in seen.requests), seen.requests
    assert not seen.complaints, seen.complaints
    seen.context.close()


def test_a_photo_that_is_too_large_is_told_in_one_line(browser, demo, tmp_path):
    seen = Watched(browser, demo.url)
    path = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    Image.fromarray(noise).save(path)
    seen.page.set_input_files("#photo input[type=file]", path)
    line = seen.page.locator("#status [role=alert]")
    line.wait_for()
    assert line.inner_text().startswith("Large.png has 3.0 MB, more than the 2 MB")
    assert not seen.complaints, seen.complaints
    seen.context.close()


def test_a_browser_without_webgl2_gets_a_sentence(browser, demo):
    context = browser.new_context()
    context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page = context.new_page()
    page.goto(f"{demo.url}lifemask/viewer/viewer.html")
    text = page.locator("#message-text")
    text.wait_for()
    assert "WebGL 2" in text.inner_text()
    context.close()


def _is_ours(url: str, base: str) -> bool:
    return url.startswith((base, "data:", f"blob:{base}"))
