"""Seconds from the upload of a photo to a turning head in the browser: python benchmarks/demo.py.

Headless Chromium draws without a graphics card on the same cores that make the head.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provenance import ROOT, provenance, write_result

FLAGS = (
    "--no-sandbox --disable-gpu --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic"
    " --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE_MS = 300_000
TARGET_S = 15.0


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/demo.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = save_sample(Path(folder))
        words = [sys.executable, "-m", "lifemask.apps.cli", "demo", "--port", "0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[2]
            rounds = measure(url, photo, options.rounds)
        finally:
            process.terminate()
            process.wait()
    record = provenance("python benchmarks/demo.py")
    load = os.getloadavg()[0]
    record |= {"load_before": load, "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    record |= {"target_s": TARGET_S, "photo": "512 x 512 px", "renderer": "SwiftShader, no GPU"}
    record |= {"first_round": rounds[0], "rounds": rounds[1:], "warm": medians(rounds[1:])}
    write_result(options.json, record)
    print(json.dumps(record["warm"] or rounds[0]))


def save_sample(folder: Path) -> Path:
    """The sample portrait as a file."""
    from PIL import Image

    from lifemask.apps.photos import sample_photo

    path = folder / "astronaut.png"
    Image.fromarray(sample_photo()).save(path)
    return path


def measure(url: str, photo: Path, rounds: int) -> list[dict[str, float]]:
    """A cold round, begun as soon as the page can be asked for, and `rounds` warm ones."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("chromium or google-chrome is needed")
    with sync_playwright() as run:
        browser = run.chromium.launch(executable_path=found, args=FLAGS)
        result = [one_round(browser, url, photo) for _ in range(rounds + 1)]
        browser.close()
    return result


def one_round(browser, url: str, photo: Path) -> dict[str, float]:
    """Seconds from the upload until the head is drawn, turns (five pictures), and is complete."""
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.wait_for_selector("#go")
    start = time.perf_counter()
    page.set_input_files("#photo input[type=file]", photo)
    viewer = page.frame_locator("#viewer iframe")
    viewer.locator("body[data-frames]").wait_for()
    drawn = time.perf_counter() - start
    viewer.locator("body").evaluate(
        "body => new Promise(done => { const ask = () => Number(body.dataset.frames) >= 5"
        " ? done() : setTimeout(ask, 20); ask(); })"
    )
    turning = time.perf_counter() - start
    viewer.locator('body[data-complete="true"]').wait_for()
    complete = time.perf_counter() - start
    page.close()
    return {
        "drawn_s": round(drawn, 2),
        "turning_s": round(turning, 2),
        "complete_s": round(complete, 2),
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    if not rounds:
        return {}
    return {name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]}


if __name__ == "__main__":
    main()
