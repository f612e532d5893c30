"""Write benchmarks/RESULTS.md and the README's table of numbers from the JSON files.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- numbers: begin (python benchmarks/report.py) -->", "<!-- numbers: end -->"

Result = dict[str, Any]


def load_results(folder: Path = RESULTS) -> dict[str, Result]:
    """All stored results by file name without ending."""
    return {
        p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))
    }


def nme(result: Result, **flags: Any) -> Result:
    """The one NME entry whose flags contain the given ones."""
    found = [
        n
        for n in result["numbers"]
        if n["metric"] == "nme_percent" and flags.items() <= n["flags"].items()
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} numbers have the flags {flags}")
    return found[0]


def pose_error(result: Result, metric: str) -> float | None:
    """Mean absolute error in degrees over the photos whose angles are at most 99 degrees."""
    for number in result["numbers"]:
        if number["metric"] == metric and number["flags"]["images"] == "angles <= 99":
            return number["value"]
    return None


def accuracy_rows(results: dict[str, Result]) -> list[list[str]]:
    """One row per scored system, with bins."""
    rows = []
    for result in results.values():
        if result.get("protocol") != "aflw2000":
            continue
        all68 = nme(result, gt="original", points=68, dims=2, pool="bins")
        inner = nme(result, gt="original", points=51, dims=2, pool="bins")
        weights, method, box = result["system"]
        bins = " / ".join(_number(v) for v in all68["bins"].values())
        low, high = all68["ci95"]
        rows.append(
            [
                f"{result['dataset']} ({result['images']})",
                f"`{weights}`",
                method,
                box,
                bins,
                f"**{_number(all68['value'])}** ({_number(low)}-{_number(high)})",
                _number(inner["value"]),
                str(result["misses"]["total"]),
                _number(pose_error(result, "yaw_error_deg")),
                _number(pose_error(result, "mean_euler_error_deg")),
            ]
        )
    return rows


def speed_rows(speed: Result) -> list[list[str]]:
    """One row per stage: time, target, yardstick."""
    rows = []
    for row in speed["stages"]:
        yardstick = f"{row['yardstick']}: {_ms(row['yardstick_ms'])}" if row["yardstick"] else ""
        target = "" if row["target_ms"] is None else f"<= {_ms(row['target_ms'])}"
        rows.append([row["stage"], _ms(row["ms"]), target, yardstick])
    memory = speed["peak_memory_mb"]
    rows.append(
        [
            "peak memory of a process that reconstructs the photo",
            f"{memory['value'] / 1000:.2f} GB",
            f"<= {memory['target'] / 1000:.1f} GB",
            "",
        ]
    )
    return rows


MESH_HEAD = ("modes", "real scan, mean / median mm", "unseen ICT heads, mean / median mm")
ACCURACY_HEAD = (
    "photos",
    "weights",
    "method",
    "box",
    "NME % 68 points, 0-30 / 30-60 / 60-90",
    "mean (95 %)",
    "inner 51",
    "missed",
    "yaw error",
    "Euler error",
)
SPEED_HEAD = ("stage", "one thread", "target", "yardstick, same run")


def rasterise_rows(result: Result) -> list[list[str]]:
    """One row per picture size and way to draw, median wall time."""
    rows = []
    for row in result["results"]:
        picture = f"{row['triangles']:,} triangles, {row['size_px']} x {row['size_px']}"
        for name, times in row["times"].items():
            rows.append([picture, name, _ms(times["median_ms"])])
    return rows


def mesh_rows(result: Result) -> list[list[str]]:
    """One row per number of modes: distances of the fitted head model to what it was fitted to."""
    rows = []
    for name, fits in result["results"].items():
        scan, heads = fits["LeePerrySmith"], fits["ict_held_out"]
        rows.append(
            [
                name.removeprefix("modes_"),
                f"{scan['mean_mm']:.2f} / {scan['median_mm']:.2f}",
                f"{heads['mean_mm']:.2f} / {heads['median_mm']:.2f} ({heads['heads']} heads)",
            ]
        )
    return rows


def fit_rows(result: Result) -> list[list[str]]:
    """Landmark fit without and with photometric refinement on rendered heads."""
    heads = f"{result['heads']} rendered heads, landmark noise {result['noise_px']} px"
    return [
        [heads, name, f"{result['shape' + key + '_mm']:.2f} mm", f"{result[landmark]:.2f} px"]
        for name, key, landmark in (
            ("landmarks", "", "landmarks_px"),
            ("and photo", "_photometric", "landmarks_photometric_px"),
        )
    ]


def results_page(results: dict[str, Result]) -> str:
    """The text of RESULTS.md."""
    lines = [
        "# Measured",
        "",
        "Written by `python benchmarks/report.py` from `benchmarks/results/*.json`; do not edit.",
        "",
    ]
    if rows := accuracy_rows(results):
        lines += [
            "## Landmarks and pose, AFLW2000-3D protocol",
            "",
            "NME = mean distance / sqrt(w h) of the true 68-point box, in percent, original truth,"
            " 2D; mean of the three yaw bins; misses count as all points at the box's centre."
            " Pose: mean absolute degrees over the photos whose angles are at most 99 degrees."
            " `aflw2000-dev` is 100 of the 2,000 photos: do not compare it with"
            " numbers of the full set.",
            "",
            *_table(ACCURACY_HEAD, rows),
            "",
        ]
    if meshes := results.get("fit_meshes"):
        lines += ["## Head model fitted to meshes", "", *_table(MESH_HEAD, mesh_rows(meshes)), ""]
    if fit := results.get("fit"):
        head = ("data", "fitted to", "shape error", "landmark error")
        lines += ["## Fitter", "", *_table(head, fit_rows(fit)), ""]
    if speed := results.get("speed"):
        load = speed["load_average"]
        lines += [
            "## Speed",
            "",
            f"`{speed['command']}` at {speed['commit']}, {speed['date']}, {speed['machine']}, one"
            f" thread, load average {load['before']} before and {load['after']} after.",
            "",
            *_table(SPEED_HEAD, speed_rows(speed)),
            "",
        ]
    if drawn := results.get("rasterize"):
        head = ("picture", "way", "one thread, median")
        lines += ["## Rasteriser and renderer", "", *_table(head, rasterise_rows(drawn)), ""]
    lines += ["## Where the numbers come from", ""]
    lines += [
        f"- `{name}.json`: `{r['command']}` at {r['commit']}, {r['date']}"
        for name, r in results.items()
        if "command" in r
    ]
    return "\n".join(lines) + "\n"


def readme_block(results: dict[str, Result]) -> str:
    """The README's tables: the main systems, and the stages that have a target."""
    lines = []
    if rows := [row for row in accuracy_rows(results) if row[3] == "official"]:
        keep = [0, 1, 2, 4, 5, 6]
        pick = [[row[k] for k in keep] for row in rows]
        lines += _table(tuple(ACCURACY_HEAD[k] for k in keep), pick) + [""]
    if meshes := results.get("fit_meshes"):
        lines += [*_table(MESH_HEAD, mesh_rows(meshes)[:1]), ""]
    if speed := results.get("speed"):
        rows = [row for row in speed_rows(speed) if row[2]]
        lines += _table(SPEED_HEAD, rows)
    return "\n".join(lines).strip()


def with_block(readme: str, block: str) -> str:
    """The README with its numbers replaced."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ms(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def main() -> None:
    """Rewrite both files."""
    results = load_results()
    (ROOT / "benchmarks" / "RESULTS.md").write_text(results_page(results), encoding="utf-8")
    readme = ROOT / "README.md"
    text = with_block(readme.read_text(encoding="utf-8"), readme_block(results))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
