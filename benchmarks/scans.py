"""Reconstruct a real head scan from renders of it and measure the result against the scan.

    python benchmarks/scans.py --data SCANS [--method fit] [--keep FOLDER] [--pictures FOLDER]

SCANS holds LeePerrySmith.glb and Map-COL.jpg (CC-BY 3.0, Infinite-Realities). The scan is rendered
from several sides in two lights, the pipeline reconstructs each picture, and
`benchmarks/results/scans.json` holds the scores of both families of weights and all methods
(2DASL and PGN also before the colours refine them, RAFaRe as the head that carries the surface, the
same with its displacement map, and the surface itself) beside the mean head, aligned the same way.
The scan is a test: nothing is trained, selected or tuned on it.

The file has no unit. 52.363 mm per unit comes from fitting our head model's mean to it
(`benchmarks/results/fit_meshes.json`); the outer eye corners are then 95 mm apart. Rigid numbers
inherit that guess, similarity numbers only their scale. The seven points were picked by eye on a
frontal render; they start the alignment and place the crop.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from heatmaps import draw_heatmap
from lifemask.data.scans import INDEX, Scans, load_scans
from lifemask.evaluation.meshes import load_mesh_predictions
from lifemask.evaluation.metrics import paired_difference, rounded
from lifemask.evaluation.scans import lay, outer_faces, score_scans, true_face
from lifemask.graphics.camera import pinhole_camera, rotation_from_euler_deg
from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear, studio_light
from lifemask.graphics.meshio import read_glb
from lifemask.graphics.render import render
from ours import Ours
from provenance import provenance, write_result

RESULTS = Path(__file__).parent / "results"
NAME = "LeePerrySmith"
MM_PER_UNIT = 52.363
LANDMARKS7 = (
    (-1.016, 1.647, 1.706), (-0.410, 1.709, 1.844), (0.218, 1.697, 1.848), (0.807, 1.642, 1.676),
    (-0.104, 0.909, 2.348), (-0.482, 0.392, 2.089), (0.340, 0.414, 2.082),
)  # fmt: skip
YAWS_DEG = (-60.0, -30.0, 0.0, 30.0, 60.0)
LIGHTS = ("key", "soft")
SIZE, DISTANCE_MM, FOCAL_PX = 512, 1200.0, 1900.0


def write_folder(data: Path, folder: Path) -> None:
    """Renders of the scan, the scan and their index, as `lifemask.data.scans` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data / f"{NAME}.glb", folder / f"{NAME}.glb")
    scene = read_glb(data / f"{NAME}.glb")
    photos = []
    for light in LIGHTS:
        for yaw in YAWS_DEG:
            name = f"{NAME}-{light}-{yaw:+03.0f}"
            draw_view(scene, data / "Map-COL.jpg", light, yaw, folder / f"{name}.png")
            photos.append({"name": name, "file": f"{name}.png", "scan": NAME})
    scan = {
        "name": NAME, "file": f"{NAME}.glb", "mm_per_unit": MM_PER_UNIT, "landmarks7": LANDMARKS7,
        "notes": "CC-BY 3.0, Infinite-Realities; unit from a fit of the mean head",
    }  # fmt: skip
    (folder / INDEX).write_text(json.dumps({"scans": [scan], "photos": photos}, indent=1) + "\n")


def draw_view(scene: Any, texture: Path, light: str, yaw_deg: float, path: Path) -> None:
    """One render of the scan before a plain wall, as a camera at 1.2 m sees it."""
    points = torch.from_numpy(scene.positions_mm / 1000.0).float() * MM_PER_UNIT
    middle = torch.tensor(LANDMARKS7).mean(0) * MM_PER_UNIT + torch.tensor([0.0, 15.0, -80.0])
    with Image.open(texture) as picture:  # the file's texture coordinates count rows from below
        pixels = np.asarray(picture.convert("RGB"))[::-1].copy()
    albedo = srgb_to_linear(torch.from_numpy(pixels).float().permute(2, 0, 1)[None] / 255)
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw_deg, 0.0]))
    half = torch.full((2,), (SIZE - 1) / 2)
    camera = pinhole_camera(rotation, torch.tensor([0.0, 0.0, -DISTANCE_MM]), FOCAL_PX, half)
    wall = torch.linspace(0.30, 0.16, SIZE)[None, :, None].expand(3, SIZE, SIZE)
    faces_uv = np.concatenate([part.faces_uv for part in scene.primitives])
    drawn = render(
        (points - middle)[None], torch.from_numpy(scene.faces.astype(np.int64)), camera, SIZE, SIZE,
        uvs=torch.from_numpy(scene.uvs), faces_uv=torch.from_numpy(faces_uv.astype(np.int64)),
        albedo=albedo, lighting=studio_light(light), background=wall, supersample=2,
    )  # fmt: skip
    picture = (linear_to_srgb(drawn.image[0].clamp(0, 1)) * 255).round().byte()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def draw_errors(data: Scans, predictions: Path, out: Path) -> None:
    """Distance of the scan's face to each reconstruction, drawn on the scan."""
    from lifemask.evaluation._seven import seven_landmarks

    folder = load_mesh_predictions(predictions)
    face = true_face(data.scan(NAME))
    for name in data.names:
        mesh, seven = folder.mesh(name), seven_landmarks(folder, name, "now7")
        if mesh is None or seven is None:
            continue
        skin = mesh[0], outer_faces(*mesh)
        distance = lay(face, skin, seven, "icp similarity").closest.distance
        values = np.full(len(face.scan.vertices_mm), np.nan)
        values[face.ids] = distance
        title = f"{name}: {face.weights @ distance:.2f} mm"
        center = face.scan.landmarks7_mm.mean(axis=0) + [0.0, 0.0, -60.0]
        draw_heatmap(
            face.scan.vertices_mm, face.scan.faces, values, out / f"{name}.png",
            limit=4.0, title=title, center_mm=center,
        )  # fmt: skip


SYSTEMS: dict[str, tuple[dict[str, Any], ...]] = {
    "fit": ({},),
    "dasl": ({"map": "detector"}, {"map": "detector", "refine": False}),
    "pgn": ({}, {"refine": False}),
    "rafare": ({}, {"mesh": "detailed"}, {"mesh": "surface"}),
}
"""Methods and how each is run."""


def run(data: Scans, ours: Ours, work: Path, pictures: Path | None) -> dict[str, Any]:
    """Predict and score one system."""
    out = ours.predict("scans", data.folder, work / ours.stem)
    if pictures:
        draw_errors(data, out, pictures / ours.stem)
    return score_scans(data, load_mesh_predictions(out))


def compared(results: dict[str, Any]) -> dict[str, Any]:
    """RAFaRe's meshes minus the mean head and the fitter on the same photos: chamfer, similarity.

    The photos show one scan: the intervals are over its pictures, not over people.
    """
    columns = {}
    for name, result in results.items():
        for number in result["numbers"]:
            if (number["metric"], number["flags"]["align"]) == ("chamfer_mm", "icp similarity"):
                values = [np.nan if v is None else v for v in number["by_photo"].values()]
                columns[name] = np.array(values, np.float64)
    out = {}
    for name in (n for n in columns if n.startswith("rafare")):
        family = name.rsplit(" ", 1)[1]
        for other in (o for o in ("mean head", f"fit {family}") if o in columns):
            bins = np.zeros(len(columns[name]), int)
            gap = paired_difference(columns[name], columns[other], bins, "images")
            out[f"{name} - {other}"] = {
                "mean": rounded(gap.value), "ci95": [rounded(v) for v in gap.ci95],
                "significant": gap.significant, "photos": gap.images,
            }  # fmt: skip
    return out


def main() -> None:
    """Render, predict, score, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the scan")
    parser.add_argument("--weights", action="append", choices=("open", "research"))
    parser.add_argument("--method", action="append", choices=tuple(SYSTEMS))
    parser.add_argument("--json", type=Path, default=RESULTS / "scans.json")
    parser.add_argument("--keep", type=Path, help="keep the renders and their index there")
    parser.add_argument("--pictures", type=Path, help="draw errors there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = options.keep or work / "scans"
        write_folder(options.data, folder)
        data = load_scans(folder)
        Ours("open", "mean").predict("scans", folder, work / "mean")
        results = {"mean head": score_scans(data, load_mesh_predictions(work / "mean"))}
        for method in options.method or SYSTEMS:
            for weights, given in product(options.weights or ["open", "research"], SYSTEMS[method]):
                ours = Ours(weights, method, **given)
                results[f"{ours.label} {weights}"] = run(data, ours, work, options.pictures)
    content = {"protocol": "scans", "mm_per_unit": MM_PER_UNIT, "systems": results}
    content |= {"differences": compared(results)}
    chosen = [f" --method {name}" for name in options.method or ()]
    chosen += [f" --weights {name}" for name in options.weights or ()]
    content |= provenance("python benchmarks/scans.py --data SCANS" + "".join(chosen))
    write_result(options.json, content)
    for system, result in results.items():
        print(system, f"({result['misses']['total']} missed)")
        for number in result["numbers"]:
            print(f"  {number['metric']:18s} {number['flags']['align']:22s} {number['value']}")
    for systems, gap in content["differences"].items():
        print(f"{systems}: {gap['mean']} mm, 95 % {gap['ci95']}")


if __name__ == "__main__":
    main()
