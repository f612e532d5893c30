"""`examples/browser` in a real browser: its numbers are those of Python."""

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from lifemask.assets import weights_path
from lifemask.faces.crop import crop_square
from lifemask.training.browser_export import BrowserOutput

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "browser"
SIZE, PASSES = 112, 3
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
DRAG = ((165, 60), (290, 190))  # over the astronaut's face, in photo px
CROP_LEVELS, OUTPUT, PX, DEGREES = 2.1, 1e-3, 0.3, 0.2
"""Levels of 255 of a crop (Pillow rounds twice); network on equal crops; face of a photo."""

pytestmark = pytest.mark.slow


def needed(what: object, name: str) -> None:
    if what:
        return
    if os.environ.get("LIFEMASK_REQUIRE_BROWSER"):
        pytest.fail(f"{name} is missing, and LIFEMASK_REQUIRE_BROWSER is set")
    pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example as its README sets it up, served."""
    needed(shutil.which("npm"), "npm")
    folder = tmp_path_factory.mktemp("site")
    for file in EXAMPLE.glob("*.*"):
        shutil.copy(file, folder)
    installed = [place / "node_modules" for place in (EXAMPLE, ROOT / "build" / "browser")]
    shared = [place for place in installed if (place / "onnxruntime-web").is_dir()]
    if shared:
        (folder / "node_modules").symlink_to(shared[0])
    else:
        command = ["npm", "install", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"npm could not install onnxruntime-web: {done.stderr[-200:]}")
    for suffix in ("onnx", "json"):
        shutil.copy(weights_path("browser-open.onnx").with_suffix(f".{suffix}"), folder)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def page(site):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    needed(chromium, "chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(site)
        page.wait_for_function("!document.getElementById('file').disabled", timeout=60_000)
        yield page
        assert faults == []
        browser.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    from PIL import Image

    pixels = pytest.importorskip("skimage.data").astronaut()
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(pixels).save(path)
    return pixels, path


@pytest.fixture(scope="module")
def python_network():
    import onnxruntime

    file = str(weights_path("browser-open.onnx"))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def look(crop: np.ndarray) -> BrowserOutput:
        found = session.run(None, {"crops": crop[None]})
        return BrowserOutput(*(torch.as_tensor(one[0]) for one in found))

    return look


IN_PAGE = """async ([rgba, width, height, square]) => {
  const { cropSquare, loadFace, look } = await import("./face.js");
  const bytes = Uint8ClampedArray.from(atob(rgba), (c) => c.charCodeAt(0));
  const crop = cropSquare(new ImageData(bytes, width, height), square);
  const said = await look(await loadFace("browser-open.onnx"), crop);
  const plain = Object.entries(said).map(([name, data]) => [name, Array.from(data)]);
  return { crop: Array.from(crop), said: Object.fromEntries(plain) };
}"""


SQUARES = [(226.7, 129.5, 132.2), (40.3, 30.2, 90.0), (250.0, 250.0, 470.0)]


@pytest.mark.parametrize("square", SQUARES)
def test_crop_and_network_are_those_of_python(page, photo, python_network, square):
    pixels, _ = photo
    u, v, side = square
    rgba = np.dstack((pixels, np.full(pixels.shape[:2], 255, np.uint8)))
    data = base64.b64encode(rgba.tobytes()).decode()
    given = [data, pixels.shape[1], pixels.shape[0], {"u": u, "v": v, "side": side}]
    answer = page.evaluate(IN_PAGE, given)
    crop = np.array(answer["crop"], np.float32).reshape(3, SIZE, SIZE)
    wanted = crop_square(pixels, (u, v), side, SIZE).image.numpy()
    assert 255 * float(np.abs(crop - wanted).max()) < CROP_LEVELS
    for name, value in python_network(crop)._asdict().items():
        found = np.array(answer["said"][name]).reshape(value.shape)
        np.testing.assert_allclose(found, value.numpy(), atol=OUTPUT * (1 + value.abs().max()))


def test_a_dragged_square_finds_the_face(page, photo, python_network, tmp_path):
    pixels, path = photo
    page.set_input_files("#file", str(path))
    page.wait_for_function("window.found !== undefined", timeout=60_000)
    box = page.locator("#photo").bounding_box()
    zoom = box["width"] / pixels.shape[1]
    places = [(box["x"] + (u + 0.5) * zoom, box["y"] + (v + 0.5) * zoom) for u, v in DRAG]
    page.evaluate("window.found = undefined")
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1])
    page.mouse.up()
    page.wait_for_function("window.found !== undefined", timeout=60_000)
    found = page.evaluate("window.found")
    page.screenshot(path=os.environ.get("LIFEMASK_SHOT", tmp_path / "page.png"))

    (u0, v0), (u1, v1) = DRAG
    side = max(u1 - u0, v1 - v0)
    square = u0 + side / 2, v0 + side / 2, side
    for _ in range(PASSES):
        center, side = square[:2], square[2]
        said = python_network(crop_square(pixels, center, side, SIZE).image.numpy())
        points = torch.tensor(center) + said.landmarks68[:, :2] * side / 2
        own = (said.square * side / 2).tolist()
        square = center[0] + own[0], center[1] + own[1], own[2]
    np.testing.assert_allclose(found["landmarks68"], points.numpy(), atol=PX)
    np.testing.assert_allclose(found["poseDeg"], said.pose_deg.numpy(), atol=DEGREES)
    assert abs(float(points[:, 0].mean()) - 226) < 25 and abs(float(points[:, 1].mean()) - 130) < 30
    shown = page.locator("#yaw").inner_text()
    assert float(shown.removesuffix("°")) == pytest.approx(found["poseDeg"][1], abs=0.06)
    names = json.loads((weights_path("browser-open.onnx").with_suffix(".json")).read_text())
    first = page.locator("#expressions li").first.inner_text()
    best = names["expressions"][int(np.argmax(found["expression"]))]
    assert first.startswith(best)
