"""RESULTS.md's section about detailed surfaces: levels, controls, differences, targets, cost."""

from __future__ import annotations

from typing import Any

from lifemask.evaluation.report import table
from report_dasl import ablation_rows

Result = dict[str, Any]
COLUMNS = (
    ("z", "cd_mm", "CD mm", 2),
    ("similarity", "cd_mm", "CD mm, similarity", 2),
    ("z", "normal_angle_deg", "normals deg", 2),
    ("z", "detail_r", "detail r", 3),
    ("z", "detail_energy_ratio", "energy ratio", 2),
    ("z", "cover_percent", "cover %", 1),
)
PARTS = (
    ("normal_angle_eyes_deg", "eyes"),
    ("normal_angle_lips_deg", "lips"),
    ("normal_angle_nose_deg", "nose"),
)
DIFFERENCES = (
    ("cd_mm", "CD mm", 3),
    ("normal_angle_deg", "normals deg", 2),
    ("detail_r", "detail r", 3),
    ("detail_energy_ratio", "energy, times", 2),
)


def rafare_sections(results: dict[str, Result]) -> list[str]:
    """All sections; empty where nothing was measured."""
    lines: list[str] = []
    for stem, result in results.items():
        if result.get("benchmark") == "rafare":
            lines += _section(stem, result)
        elif result.get("benchmark") == "rafare-data":
            lines += _kinds(result)
        elif result.get("benchmark") == "rafare-speed":
            lines += _speed(result)
        elif result.get("benchmark") == "ablation" and result["method"].startswith("rafare"):
            lines += _ablation(result)
        elif result.get("protocol") == "scans" and result.get("differences"):
            lines += _scans(result["differences"])
    return lines


def _ablation(result: Result) -> list[str]:
    units = {"rafare-normals": "degrees", "rafare-base": "distance, 1/1000 half-crop"}
    unit = units.get(result["method"], "held-out error")
    shown = ("error", unit), ("side", "points on the right side of the surface")
    head, rows = ablation_rows(result, shown, higher=("side",))
    return [
        f"## What the parts of {result['method']} do",
        "",
        f"`{result['command']}`: {result['steps']} steps, seeds"
        f" {', '.join(map(str, result['seeds']))}; mean (range) over seeds, development pairs. A"
        " part helps (or hurts) where taking it away changes the mean by more than the larger"
        " range.",
        "",
        *table(head, rows),
        "",
    ]


def _kinds(result: Result) -> list[str]:
    """What is learned from pairs of different kinds."""
    titles = {"base": "base, 1/1000 half-crop", "fine": "fine, 1 - r"}
    judged = ", ".join(f"{count} held-out `{name}`" for name, count in result["judged"].items())

    def shown(entry: Result, part: str) -> str:
        digits, seeds = (2, 3)[part == "fine"], entry["seeds"]
        low, high = (f"{v:.{digits}f}" for v in (min(seeds), max(seeds)))
        return f"{entry['mean']:.{digits}f} ({low}-{high})"

    columns = [(part, name) for part in titles for name in result["judged"]]
    rows = [
        [kind, *(shown(entry[part][name], part) for part, name in columns)]
        for kind, entry in result["kinds"].items()
    ]
    head = ("learned from", *(f"{titles[part]}, on `{name}`" for part, name in columns))
    return [
        "## RAFaRe: what it learns from",
        "",
        f"`{result['command']}`: {result['pairs']} pairs of each kind, {result['steps']} steps from"
        f" nothing, judged on {judged}; mean (range) over seeds. A short training: it compares"
        " kinds of data, not the shipped weights.",
        "",
        *table(head, rows),
        "",
    ]


def _section(stem: str, result: Result) -> list[str]:
    guided = "with" if result["guide"] else "without"
    lines = [
        f"## Detailed surfaces, `{stem}`",
        "",
        f"{result['heads']} held-out pairs, crops of {result['size']} px, {guided} the guide; 95 %"
        " bootstrap over people. Only the depth is aligned (z) where no other alignment is named."
        " Definitions: `lifemask.evaluation.rafare`.",
        "",
        *_means(result),
        "",
        "By yaw 0-30 / 30-60 / 60-90 degrees, aligned in z; normals by region:",
        "",
        *_bins(result),
        "",
        "The first minus the second on the same heads (energy: the first over the second):",
        "",
        *_differences(result["differences"]["z"]),
        "",
    ]
    rows = [
        [t["target"], _interval(t["value"], t["ci95"], 3), "yes" if t["met"] else "no"]
        for t in result["targets"]
    ]
    return [*lines, *table(("target", "value (95 %)", "met"), rows), "", *_cost(result)]


def _scans(found: Result) -> list[str]:
    rows = [[name, _entry(gap, 3), str(gap["photos"])] for name, gap in found.items()]
    return [
        "## Detailed surfaces on a real scan",
        "",
        "Chamfer distance in mm after a similarity ICP, the first minus the second on the same"
        " renders of one scan; 95 % over renders. Negative: the first is nearer.",
        "",
        *table(("systems", "chamfer mm", "renders"), rows),
        "",
    ]


def _means(result: Result) -> list[str]:
    rows = []
    for name, own in result["systems"].items():
        cells = [_entry(own[how].get(key), digits) for how, key, _, digits in COLUMNS]
        rows.append([name, *cells, str(own["misses"]["total"])])
    return table(("system", *(title for _, _, title, _ in COLUMNS), "misses"), rows)


def _bins(result: Result) -> list[str]:
    rows = []
    for name, own in result["systems"].items():
        values = own["z"]
        cells = [
            " / ".join(_number(v, 2) for v in values[key]["bins"].values())
            if key in values
            else "-"
            for key in ("cd_mm", "normal_angle_deg", "detail_r")
        ]
        cells += [_number(values.get(key, {}).get("mean"), 2) for key, _ in PARTS]
        rows.append([name, *cells])
    head = ("system", "CD mm", "normals deg", "detail r", *(title for _, title in PARTS))
    return table(head, rows)


def _differences(found: Result) -> list[str]:
    rows = [
        [name, *(_entry(own[key], digits) for key, _, digits in DIFFERENCES)]
        for name, own in found.items()
    ]
    return table(("systems", *(title for _, title, _ in DIFFERENCES)), rows)


def _cost(result: Result) -> list[str]:
    lines = []
    if pieces := result.get("pieces"):
        lines += [
            f"Pieces of the base's surface before all but the largest are dropped: mean"
            f" {pieces['mean']:.1f}, most {pieces['most']} ({pieces['heads']} heads).",
            "",
        ]
    return lines


def _speed(result: Result) -> list[str]:
    threads = sorted({n for own in result["ways"].values() for n in own}, key=int)
    rows = []
    for way, own in result["ways"].items():
        seconds = [f"{own[n]['mean_seconds']:.1f}" if n in own else "-" for n in threads]
        peak = max(one["peak_memory_mb"] for one in own.values()) / 1000
        far = result["apart_voxels"].get(way)
        gaps = ["-"] * 3 if far is None else [f"{far[k]:.3f}" for k in ("mean", "p99", "most")]
        rows.append([way, *seconds, f"{peak:.2f}", *gaps])
    head = ("evaluated", *(f"s, threads: {n}" for n in threads), "GB")
    head += ("voxels from full, mean", "99 %", "most")
    met = [[r["target"], f"{r['value']:g}", "yes" if r["met"] else "no"] for r in result["targets"]]
    return [
        f"## One surface at {result['grid']} voxels a side",
        "",
        f"`{result['command']}`: mean of {result['heads']} pairs, the networks' part of the work"
        " (no parser, no guide).",
        "",
        *table(head, rows),
        "",
        *table(("target", "value", "met"), met),
        "",
    ]


def _entry(entry: Result | None, digits: int) -> str:
    return "-" if entry is None else _interval(entry["mean"], entry["ci95"], digits)


def _interval(value: float | None, ci95: list[float | None], digits: int) -> str:
    if value is None:
        return "-"
    low, high = (_number(v, digits) for v in ci95)
    return f"{value:.{digits}f} ({low} to {high})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
