"""Score the pipeline on held-out synthetic heads, beside the mean face and shuffled photos.

    python benchmarks/synthetic_heads.py --data DATA --heads 100 [--weights open --weights research]
        [--method dasl [--map detector] | --method pgn] [--no-refine]

Renders the heads (or takes a finished set, `--set FOLDER`), predicts with each family of weights
and writes `benchmarks/results/synthetic-heads-FAMILY.json`, of other methods
`...-FAMILY-METHOD-MAP.json`.
The same run scores two controls: the mean head, which looks at no photo and must be beaten, and the
heads handed to the wrong photos, which must not be better than the mean head (methods.md 0.6 e, f).
With `--pictures FOLDER` it draws where the errors are.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatmaps import draw_heatmap
from lifemask.data.synthetic_heads import (
    SyntheticHeads,
    load_synthetic_heads,
    write_synthetic_heads,
)
from lifemask.evaluation._synthetic_report import value_of
from lifemask.evaluation.meshes import MeshPredictions, load_mesh_predictions
from lifemask.evaluation.surface import similarity_from_points
from lifemask.evaluation.synthetic_heads import score_synthetic_heads
from ours import Ours
from provenance import provenance, write_result

RESULTS = Path(__file__).parent / "results"
SHAPES = tuple(
    ("shape_mm", {"shape": shape, "region": "face", "align": align, "correspond": "vertex"})
    for shape in ("expressive", "neutral")
    for align in ("similarity", "rigid")
)
HEADLINE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("rotation_error_deg", {"frame": "own"}),
    ("landmark_error_px", {"points": 68}),
    *SHAPES,
    ("normal_angle_deg", {"shape": "expressive", "align": "rigid"}),
    ("detail_r", {"shape": "expressive", "align": "similarity"}),
    ("albedo_rmse", {"gain": "one per image", "texels": "all"}),
    ("relight_psnr_db", {"of": "prediction"}),
    ("relight_psnr_db", {"of": "photo as albedo"}),
)


def headline(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The few numbers that controls are compared by."""
    out = []
    for metric, flags in HEADLINE:
        try:
            out.append(
                {"metric": metric, "flags": flags, "value": value_of(result, metric, **flags)}
            )
        except KeyError:  # the control has no such output
            continue
    return out


def shuffled(folder: Path, names: tuple[str, ...], out: Path) -> MeshPredictions:
    """The same predictions, each under the name of the next photo."""
    for source, target in zip(names, names[1:] + names[:1], strict=True):
        for path in (*folder.glob(f"{source}.*"), *folder.glob(f"neutral/{source}.*")):
            place = out / path.relative_to(folder).with_name(path.name.replace(source, target))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return load_mesh_predictions(out)


def run(data: SyntheticHeads, ours: Ours, work: Path, threads: int) -> dict[str, Any]:
    """Predict and score one system with its controls."""
    fitted, mean = work / ours.stem, work / "mean"
    ours.predict("synthetic_heads", data.folder, fitted, threads)
    Ours("open", "mean").predict("synthetic_heads", data.folder, mean)
    result = score_synthetic_heads(data, load_mesh_predictions(fitted))
    controls = {
        "mean head": score_synthetic_heads(data, load_mesh_predictions(mean)),
        "fits of other photos": score_synthetic_heads(
            data, shuffled(fitted, data.names, work / f"shuffled-{ours.stem}")
        ),
    }
    mean, others = controls.values()
    return result | {
        "controls": {name: headline(r) for name, r in controls.items()},
        "beats_mean_head": verdicts(result, mean),
        "mean_head_beats_shuffled": verdicts(mean, others),
    }


def verdicts(first: dict[str, Any], second: dict[str, Any]) -> dict[str, bool]:
    """Whether the first has the smaller shape error of the face, by shape and alignment."""
    out = {}
    for metric, flags in SHAPES:
        a, b = (value_of(result, metric, **flags) for result in (first, second))
        key = f"{flags['shape']} {flags['align']}"
        out[key] = a is not None and b is not None and a < b
    return out


def draw_errors(data: SyntheticHeads, fitted: Path, out: Path, count: int = 4) -> None:
    """Vertex errors after rigid alignment of the face, on the true heads."""
    predictions = load_mesh_predictions(fitted)
    face = data.model.topology.regions["face"].numpy()
    faces = data.model.topology.faces[data.model.topology.face_part == 0].numpy()
    for index in range(min(count, len(data))):
        mesh = predictions.mesh(data.names[index])
        if mesh is None:
            continue
        truth = data.truth(index).vertices_mm.double().numpy()
        motion = similarity_from_points(mesh[0][face], truth[face], scale=False)
        error = np.linalg.norm(motion.apply(mesh[0]) - truth, axis=1)
        title = f"{data.names[index]}: face {error[face].mean():.2f} mm"
        draw_heatmap(
            truth, faces, np.where(face, error, np.nan), out / f"{data.names[index]}.png",
            limit=5.0, title=title, center_mm=truth[face].mean(axis=0) - [0, 0, 40],
        )  # fmt: skip


def main() -> None:
    """Render, predict, score, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with skins/ and hdri/")
    parser.add_argument("--set", type=Path, help="a finished set in place of rendering one")
    parser.add_argument("--heads", type=int, default=100, help="people")
    parser.add_argument("--views", type=int, default=1, help="images of each")
    parser.add_argument("--weights", action="append", choices=("open", "research"))
    parser.add_argument("--method", choices=("fit", "dasl", "pgn"), default="fit")
    parser.add_argument("--map", choices=("detector", "self", "none"), help="of 2DASL (detector)")
    parser.add_argument("--no-refine", action="store_true", help="the method's own shape")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="draw errors there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    families = options.weights or ["open", "research"]
    source = (options.map or "detector") if options.method == "dasl" else ""
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        folder = options.set
        if folder is None:
            folder = write_synthetic_heads(work / "set", options.data, options.heads, options.views)
        data = load_synthetic_heads(folder)
        command = (
            f"python benchmarks/synthetic_heads.py --data DATA --heads {data.header['heads']}"
            f" --views {data.header['views']}"
        )
        for weights in families:
            ours = Ours(weights, options.method, map=source, refine=not options.no_refine)
            result = run(data, ours, work, options.threads)
            origin = {"protocol": "synthetic_heads", "system": [ours.label, weights]}
            plain = ours == Ours(weights, "fit")
            stem = weights if plain else f"{weights}-{ours.method_stem}"
            path = RESULTS / f"synthetic-heads-{stem}.json"
            told = f"--weights {weights}" if plain else ours.options.replace("--box official", "")
            content = origin | result | provenance(f"{command} {' '.join(told.split())}")
            write_result(path, content)
            print(path.name, *(f"{n['metric']} {n['value']}" for n in headline(result)), sep="\n  ")
            if options.pictures:
                draw_errors(data, work / ours.stem, options.pictures / weights)


if __name__ == "__main__":
    main()
