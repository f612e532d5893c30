"""The shipped networks through onnxruntime and torch: time, size, differences; and the browser's.

    python benchmarks/engines.py [--renders FOLDER] [--data DATA] [--json FILE]

Time: one thread, both engines in turn, round after round; the fastest call of each, and the ratio.
Differences: `lifemask.evaluation.engines` on the photo of `lifemask reconstruct --sample`.
The browser's network beside 2DASL's full one, both with an empty map: on held-out renders
(`lifemask synth -o FOLDER --count 200 --seed 810000000 --format cache --data DATA`), by which the
number of bits was chosen, and on aflw2000-dev. Parts whose data are not given keep what the json
holds.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are imported

import argparse  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from lifemask.assets import weights_folder, weights_path  # noqa: E402
from lifemask.evaluation.aflw2000 import score_aflw2000  # noqa: E402
from lifemask.evaluation.engines import EngineCase, engine_differences  # noqa: E402
from lifemask.evaluation.predict import predict  # noqa: E402
from lifemask.evaluation.predictions import load_predictions  # noqa: E402
from lifemask.facemodel import load_face_model  # noqa: E402
from lifemask.faces import mouth as mouths  # noqa: E402
from lifemask.faces.crop import crop_square  # noqa: E402
from lifemask.faces.eyes import HEIGHT, WIDTH, load_eyes  # noqa: E402
from lifemask.faces.landmarker import load_landmarker  # noqa: E402
from lifemask.faces.parsing import load_parser  # noqa: E402
from lifemask.graphics.camera import euler_deg_from_rotation, project  # noqa: E402
from lifemask.methods._crops import head_geometry  # noqa: E402
from lifemask.methods._targets import HeadLabels  # noqa: E402
from lifemask.methods.dasl import load_dasl  # noqa: E402
from lifemask.methods.pgn import load_pgn  # noqa: E402
from lifemask.methods.rafare import load_rafare  # noqa: E402
from lifemask.methods.retexture import load_retexturer  # noqa: E402
from lifemask.nn.shipped import ENGINES, Engine  # noqa: E402
from lifemask.training.browser_export import (  # noqa: E402
    BrowserOutput,
    browser_graph,
    browser_net,
)
from provenance import provenance, write_result  # noqa: E402

SQUARE = (160.6, 63.4, 292.8, 195.6)
"""Landmark square of the face in the sample photo."""
ROUNDS = 15
CHUNK = 65536
"""Points of RAFaRe's fields per call, as the product asks them."""
BITS = ("32", "16", "8")
SCORED = "ibug68-3d-bfm"
RESULTS = Path(__file__).parent / "results"


def sample_case(family: Any = "open") -> EngineCase:
    """The sample photo."""
    from skimage.data import astronaut

    return EngineCase(astronaut(), SQUARE, family)


def calls(case: EngineCase, engine: Engine) -> dict[str, Callable[[], Any]]:
    """One call of every network on what it gets of the photo, a batch of one."""
    family = case.family
    landmarker, parser = load_landmarker(family, engine), load_parser(family, engine)
    dasl, pgn = load_dasl(family, engine), load_pgn(family, engine)
    dresser = load_retexturer(family, case.model, None, engine, threads=1)
    surface = load_rafare(family, threads=1, engine=engine).networks
    crop = case.crops(landmarker.size)[:1]
    pixels, large = crop.numpy(), case.crops(parser.size, 1.25)[:1]
    empty = np.zeros((1, 18, 3), np.float32)
    eyes, mouth = load_eyes(engine), mouths.load_mouth(engine)
    lips = np.random.default_rng(1).random((1, 3, mouths.HEIGHT, mouths.WIDTH), np.float32)
    pair = np.random.default_rng(0).random((2, 3, HEIGHT, WIDTH), np.float32)
    ahead = np.array([[0, 0, 1]] * 2, np.float32)
    seen = type(case.texture_input)(*(part[:1] for part in case.texture_input))
    view, _ = case.surface_input(surface.config.size)
    answers = surface.look(view, "normals")
    points = torch.rand(CHUNK, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert answers.fine is not None
    return {
        "landmarker": lambda: landmarker.predict_crops(crop),
        "eyes, both": lambda: eyes.network(pair, ahead),
        "mouth": lambda: mouth.network(lips, ahead[:1]),
        "parser": lambda: parser.predict_crops(large),
        "dasl": lambda: dasl._network(pixels, empty),
        "pgn": lambda: pgn._network(pixels),
        "retexture": lambda: dresser.network(seen),
        "rafare, crop": lambda: surface.look(view, "normals"),
        f"rafare base, {CHUNK} points": partial(answers.base, points),
        f"rafare fine, {CHUNK} points": partial(answers.fine, points),
    }


@torch.no_grad()
def speed(case: EngineCase, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of both engines, and torch's in onnxruntime's."""
    both = {engine: calls(case, engine) for engine in ENGINES}
    rows = []
    for name in both["onnx"]:
        best = dict.fromkeys(ENGINES, float("inf"))
        for _ in range(rounds):
            for engine in ENGINES:
                start = time.perf_counter()
                both[engine][name]()
                best[engine] = min(best[engine], time.perf_counter() - start)
        milliseconds = {f"{engine}_ms": round(1e3 * best[engine], 3) for engine in ENGINES}
        ratio = round(best["torch"] / best["onnx"], 2)
        rows.append({"network": name, **milliseconds, "torch_over_onnx": ratio})
    return rows


def sizes() -> dict[str, float]:
    """Files of the networks in MB (10^6 bytes)."""
    files = sorted(weights_folder().glob("*.onnx"))
    files += [path for f in files if (path := f.with_suffix(".safetensors")).is_file()]
    return {path.name: round(path.stat().st_size / 1e6, 3) for path in sorted(files)}


class BrowserSystem:
    """The browser's network by onnxruntime, on photos and crops.

    Args:
        graph: from `browser_graph`.
    """

    def __init__(self, graph: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.model = load_face_model()

    def look(self, crops: torch.Tensor) -> BrowserOutput:
        """What crops in [0, 1] say."""
        found = self.session.run(None, {"crops": np.ascontiguousarray(crops.numpy())})
        return BrowserOutput(*map(torch.from_numpy, found))

    def __call__(self, image: np.ndarray, box: Any) -> tuple[np.ndarray, np.ndarray]:
        """Points (68, 3) of the scored set in photo px, and pose, as `predict` wants them."""
        center, side = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), box[2] - box[0]
        crop = crop_square(image, center, side, 112)
        said = self.look(crop.image[None])
        labels = HeadLabels(said.rotation, said.scale, said.shift, said.identity, said.expression)
        head = head_geometry(self.model, labels, 0, crop, 0)
        points = project(self.model.landmarks(head.vertices_mm, SCORED), head.camera)
        return points.numpy(), euler_deg_from_rotation(head.camera.rotation).numpy()


def on_renders(systems: dict[str, BrowserSystem], folder: Path) -> dict[str, Any]:
    """Errors against the truth of renders, and against the network in 32 bits."""
    from lifemask.data.base import load_render_cache
    from lifemask.training.dasl_data import FaceSet, crop_labels
    from lifemask.training.dasl_evaluation import nominal_crops
    from lifemask.training.dasl_labels import pose_labels

    model = load_face_model()
    faces = FaceSet(load_render_cache(folder), pose_labels(folder, model))
    crops, wanted = nominal_crops(faces, np.arange(len(faces)), 112)
    true = crop_labels(faces)
    rows: dict[str, Any] = {"images": len(faces)}
    full: BrowserOutput | None = None
    for name, system in systems.items():
        said = system.look(crops)
        full = full or said
        rows[name] = _errors(said, wanted[:, :68, :2], true, model) | {
            "apart": {
                "landmarks, crop px, mean": _mean_px(said, full),
                "rotation, degrees, mean": _mean_angle(said.rotation, full.rotation),
                "expression, mean": round(
                    float((said.expression - full.expression).abs().mean()), 5
                ),
            }
        }
    return rows


def _errors(said: BrowserOutput, wanted: np.ndarray, true: Any, model: Any) -> dict[str, float]:
    truth = torch.from_numpy(wanted)
    size = (truth.amax(1) - truth.amin(1)).prod(1).sqrt()
    apart = (said.landmarks68[..., :2] - truth).norm(dim=-1).mean(1)
    shapes = [model(x.identity.float(), x.expression.float()) for x in (said, true)]
    ours, theirs = (s - s.mean(1, keepdim=True) for s in shapes)
    return {
        "nme_percent": round(100 * float((apart / size).mean()), 4),
        "rotation_deg": _mean_angle(said.rotation, true.rotation.float()),
        "expression": round(float((said.expression - true.expression).abs().mean()), 5),
        "shape_mm": round(float((ours - theirs).norm(dim=-1).mean()), 4),
    }


def _mean_px(one: BrowserOutput, other: BrowserOutput) -> float:
    apart = (one.landmarks68[..., :2] - other.landmarks68[..., :2]).norm(dim=-1)
    return round(56 * float(apart.mean()), 4)


def _mean_angle(one: torch.Tensor, other: torch.Tensor) -> float:
    chord = (one - other).square().sum((1, 2)).sqrt() / (2 * 2**0.5)  # sin of half the angle
    return round(float(torch.rad2deg(2 * chord.clamp(max=1).asin()).mean()), 4)


def on_photos(systems: dict[str, BrowserSystem], data: Path) -> dict[str, Any]:
    """NME of aflw2000-dev in the official boxes, mean of the three yaw bins."""
    from lifemask.data.aflw2000 import load_aflw2000

    folder = data / "aflw2000_dev"
    labels = load_aflw2000(folder)
    rows = {}
    with tempfile.TemporaryDirectory() as work:
        for name, system in systems.items():
            file = predict(
                "aflw2000", folder, Path(work) / f"{name}.npz", system=system, resume=False
            )
            numbers = score_aflw2000(labels, load_predictions(file), per_image=False)["numbers"]
            rows[name] = {"nme_68": numbers[0], "nme_51": numbers[1]}
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renders", type=Path, help="cache of held-out renders")
    parser.add_argument("--data", type=Path, help="holds aflw2000_dev")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, default=RESULTS / "engines.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    earlier = json.loads(options.json.read_text()) if options.json.is_file() else {}
    command = "python benchmarks/engines.py --renders RENDERS --data DATA"
    result: dict[str, Any] = provenance(command) | {"threads": 1}
    result["sizes_mb"] = sizes()
    result["speed"] = speed(sample_case(), options.rounds)
    result["differences"] = [
        {"family": family, "network": d.network, "unit": d.unit, "largest": float(f"{d.value:.3g}"),
         "tolerance": d.tolerance}
        for family in ("open", "research")
        for d in engine_differences(sample_case(family))
    ]  # fmt: skip
    net = browser_net("open")
    systems = {f"{bits} bits": BrowserSystem(browser_graph(net, bits)) for bits in BITS}
    browser = dict(earlier.get("browser", {}))
    browser["mb"] = {f"{b} bits": round(len(browser_graph(net, b)) / 1e6, 3) for b in BITS}
    browser["shipped_mb"] = round(weights_path("browser-open.onnx").stat().st_size / 1e6, 3)
    if options.renders:
        browser["renders, seed 810000000"] = on_renders(systems, options.renders)
    if options.data:
        browser["aflw2000-dev"] = on_photos(systems, options.data)
    result["browser"] = browser
    write_result(options.json, result)
    for row in result["speed"]:
        print("{network:30} onnx {onnx_ms} ms, torch {torch_ms} ms".format(**row))
    print(json.dumps(browser, indent=1))


if __name__ == "__main__":
    main()
