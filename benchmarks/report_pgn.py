"""RESULTS.md's sections about PGN: limits, several photos, pose, uncertainty, speed, ablation."""

from __future__ import annotations

from typing import Any

from lifemask.evaluation.report import table
from report_dasl import ablation_rows

Result = dict[str, Any]
PARTS = (
    "as predicted",
    "true pose",
    "true identity",
    "true expression",
    "true shape",
    "all true",
)
METRICS = ("nme_68", "nme_51", "landmarks_mm", "shape_mm")
CAMERAS = ("orthographic", "turned", "perspective", "perspective - turned")
ABLATED = (
    ("renders-open", "renders NME %"),
    ("renders-open_angle_deg", "rotation deg"),
    ("renders-open_shape_mm", "shape mm"),
    ("renders-open_two_mm", "two photos mm"),
    ("aflw21", "AFLW-21 NME %"),
    ("ytf68_ratio", "identity ratio"),
)
NOTHING = "-"
RETIRED = ("after the fit", "pgn, with the fit", "fit of the head")
"""Rows of stored results about a closed-form fit to the map that is no more."""


def pgn_sections(results: dict[str, Result]) -> list[str]:
    """All sections; empty where nothing was measured."""
    lines: list[str] = []
    measured = [r for r in results.values() if r.get("benchmark") == "pgn"]
    if measured:
        lines += [
            "## PGN on people it never saw",
            "",
            "Synthetic test heads, held-out renders and photos; 95 % bootstrap over people, of"
            " differences paired. NME in % of sqrt(w h) of the true 68-point box; 3D landmark and"
            " shape errors in mm, shape after a rigid motion, over the face. Definitions:"
            " `benchmarks/pgn_*.py`.",
            "",
        ]
    for result in measured:
        for name, one in result["sets"].items():
            lines += _set(f"`{result['family']}`, {name}", one)
        lines += _meshes(result) + _ratios(result)
    for result in results.values():
        if result.get("benchmark") == "pgn speed":
            lines += _speed(result)
        if result.get("benchmark") == "ablation" and result["method"] == "pgn":
            lines += _ablation(result)
    return lines


def _set(title: str, one: Result) -> list[str]:
    lines: list[str] = []
    if "bottleneck" in one:
        lines += [f"### {title} ({one['pictures']} pictures, {one['people']} people)", ""]
        lines += _limits(one) + _poses(one) + _cameras(one)
    if "photos" in one:
        lines += _photos(one["photos"])
    if "uncertainty" in one:
        lines += _uncertainty(one["uncertainty"])
    return lines


def _limits(one: Result) -> list[str]:
    """What remains when parts are replaced by the truth."""
    systems = one["bottleneck"]
    rows = []
    for part in PARTS:
        row = [part]
        row += [
            " / ".join(f"{rows_[part][m]['mean']:.2f}" for m in METRICS)
            for rows_ in systems.values()
        ]
        change = systems["pgn"].get(f"{part} - as predicted")
        rows.append([*row, signed(change["nme_68"]) if change else ""])
    head = ("replaced", *systems, "pgn: change of NME 68 (95 %)")
    lines = ["What limits: NME 68 / inner 51 / 3D landmarks mm / shape mm.", ""]
    lines += [*table(head, rows), ""]
    compared = one["differences"]
    if compared:
        metrics = list(next(iter(compared.values())))
        rows = [[name, *(signed(d[m]) for m in metrics)] for name, d in compared.items()]
        lines += [*table(("difference (95 %, paired)", *metrics), rows), ""]
    return lines


def _poses(one: Result) -> list[str]:
    """Rotation errors by system and by how PGN's pose is solved."""
    ways = one["pose"] | {k: v for k, v in kept(one["solved"]).items() if "landmarks_px" in v}
    rows = [
        [
            name,
            _interval(way["rotation_deg"]),
            f"{way['rotation_deg_median']:.2f}",
            f"{way['camera_deg']['mean']:.2f}",
            _interval(way["landmarks_px"]),
        ]
        for name, way in ways.items()
    ]
    change = signed(one["solved"]["weights of the map - equal"])
    head = ("pose", "degrees as seen (95 %)", "median", "to the camera", "landmarks px (95 %)")
    return [
        "Rotation against the line of sight, which is what a crop shows, and against the camera."
        f" The map's weights against equal ones: {change} degrees.",
        "",
        *table(head, rows),
        "",
    ]


def _cameras(one: Result) -> list[str]:
    """Orthographic and perspective solutions by focal length."""
    rows = [
        [shape, words, *(_change(cell[name], name) for name in CAMERAS), _count(cell)]
        for shape, bins in one["cameras"].items()
        for words, cell in bins.items()
    ]
    if not rows:
        return []
    head = ("shape", "focal length, image widths", *CAMERAS, "pictures")
    return [
        "Degrees to the true camera, its focal length known: the orthographic solution as it is,"
        " turned to where the face appears, and the perspective solution.",
        "",
        *table(head, rows),
        "",
    ]


def _photos(photos: Result) -> list[str]:
    """Shape error by number of photos."""
    photos = kept(photos)
    counts = sorted({int(k) for way in photos.values() for k in way if k.isdigit()})
    changes = [f"{k} - 1" for k in counts if k in (2, 4)]
    rows = []
    for name, way in photos.items():
        if "1" not in way:
            continue
        row = [name, *(f"{way[str(k)]['mean']:.2f}" if str(k) in way else "" for k in counts)]
        rows.append(row + [signed(way[c]) if c in way else "" for c in changes])
    rows.append(["(mean face)", f"{photos['mean face']['mean']:.2f}"])
    rows[-1] += [""] * (len(counts) + len(changes) - 1)
    head = ("neutral shape, mm", *(_photo_word(k) for k in counts), *changes)
    return ["Identity from several photos of a person.", "", *table(head, rows), ""]


def _photo_word(count: int) -> str:
    return "1 photo" if count == 1 else f"{count}"


def _uncertainty(found: Result) -> list[str]:
    rows = [
        [
            name,
            f"{one['pooled']:.2f} ({one['ci95'][0]:.2f}-{one['ci95'][1]:.2f})",
            f"{one['within_image']:.2f}",
            f"{one['of_image_means']:.2f}",
        ]
        for name, one in found.items()
        if isinstance(one, dict)
    ]
    head = ("said of a vertex", "rank correlation (95 %)", "within a picture", "pictures' means")
    return [
        f"Does it know its error? Target {found['target']}; {found['vertices']} vertices.",
        "",
        *table(head, rows),
        "",
    ]


def _meshes(result: Result) -> list[str]:
    """The model's mesh against the map's own, by set."""
    rows = []
    for name, one in result["sets"].items():
        for metric in one["meshes"]["model"]:
            model, on_map = (one["meshes"][k][metric]["mean"] for k in ("model", "map"))
            change = signed(one["meshes"]["map - model"][metric])
            rows.append([name, metric, f"{model:.2f}", f"{on_map:.2f}", change])
    if not rows:
        return []
    head = ("set", "error", "model's mesh", "map's mesh", "map - model (95 %)")
    return [f"### `{result['family']}`, both meshes", "", *table(head, rows), ""]


def _ratios(result: Result) -> list[str]:
    """Identity ratio by number of photos per estimate."""
    rows = []
    for name, one in result["sets"].items():
        for way, found in kept(one.get("ratio", {})).items():
            cells = [_interval(found[k]) if k in found else NOTHING for k in ("1", "2", "4")]
            gains = [signed(found[k]) if k in found else NOTHING for k in ("2 - 1", "4 - 1")]
            rows.append([name, way, str(found["people"]), *cells, *gains])
    if not rows:
        return []
    head = ("set", "way", "people", "1 photo", "2 photos", "4 photos", "2 - 1", "4 - 1")
    return [
        f"### `{result['family']}`, identity ratio",
        "",
        "Variance of the identity between people over that within, for estimates from 1, 2 or 4"
        " photos each.",
        "",
        *table(head, rows),
        "",
    ]


def _speed(result: Result) -> list[str]:
    rows = [
        [
            row["network"],
            f"{row['size_px']} px" if "size_px" in row else "",
            f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "",
            f"{row['ms']:.2f} ms",
            f"{row['processor_ms']:.2f} ms",
            _target(row),
        ]
        for row in result["one_face"]
    ]
    solvers = [
        [row["solver"], f"{row['ms']:.3f} ms", f"{row['processor_ms']:.3f} ms", _target(row)]
        for row in result["solvers"]
        if row["solver"] not in RETIRED
    ]
    load, faces = result["load_average"], result["solvers"][0]["faces"]
    return [
        "## PGN's networks and solvers",
        "",
        "Encoder and heads of one face through onnxruntime, one thread; the landmarker is the"
        f" yardstick. Load average {load['before']} before and {load['after']} after.",
        "",
        *table(("network", "crop", "parameters", "one face", "processor", "target"), rows),
        "",
        f"Per face in a batch of {faces}, one thread:",
        "",
        *table(("solver", "wall", "processor", "target"), solvers),
        "",
    ]


def _ablation(result: Result) -> list[str]:
    head, rows = ablation_rows(result, ABLATED)
    return [
        "## What the parts of PGN do",
        "",
        f"`{result['command']}`: {result['steps']} steps, seeds"
        f" {', '.join(map(str, result['seeds']))}; mean (range) over seeds. A part helps (or hurts)"
        " where taking it away changes the mean by more than the larger range.",
        "",
        *table(head, rows),
        "",
    ]


def kept(rows: Result) -> Result:
    """Rows by name without the retired ones."""
    return {name: row for name, row in rows.items() if name not in RETIRED}


def signed(change: Result) -> str:
    """A difference with its sign and interval."""
    low, high = change["ci95"]
    return f"{change['mean']:+.2f} ({low:+.2f} to {high:+.2f})"


def _change(cell: Result, name: str) -> str:
    return signed(cell) if " - " in name else f"{cell['mean']:.2f}"


def _count(cell: Result) -> str:
    return str(cell["orthographic"]["images"])


def _interval(cell: Result) -> str:
    low, high = cell["ci95"]
    return f"{cell['mean']:.2f} ({low:.2f}-{high:.2f})"


def _target(row: Result) -> str:
    return "" if row["target_ms"] is None else f"<= {row['target_ms']:g} ms"
