"""Write benchmarks/RESULTS.md, its curves and the README's table of numbers from the JSON files.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lifemask.evaluation import report
from lifemask.evaluation.charts import save_canvas
from lifemask.evaluation.report import one_number as nme
from lifemask.evaluation.report import table as _table
from report_dasl import dasl_sections
from report_eyes import eyes_sections
from report_mouth import mouth_sections
from report_pgn import pgn_sections
from report_rafare import rafare_sections
from report_readme import method_lines, peer_lines
from report_retexture import retexture_sections

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CURVES = ROOT / "benchmarks" / "curves"
PUBLISHED = ROOT / "benchmarks" / "published.json"
PEER = "MediaPipe"
NO_WEIGHTS = "-"  # in the column of our families, for a peer
BEGIN, END = "<!-- numbers: begin (python benchmarks/report.py) -->", "<!-- numbers: end -->"

Result = dict[str, Any]


def load_results(folder: Path = RESULTS) -> dict[str, Result]:
    """All stored results by file name without ending."""
    return {
        p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))
    }


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
        if isinstance(result["system"], str):
            weights, method, box = NO_WEIGHTS, result["system"], "official"
        else:
            weights, method, box = result["system"]
            weights = f"`{weights}`"
        bins = " / ".join(_number(v) for v in all68["bins"].values())
        low, high = all68["ci95"]
        rows.append(
            [
                f"{result['dataset']} ({result['images']})",
                weights,
                method,
                box,
                bins,
                f"**{_number(all68['value'])}** ({_number(low)}-{_number(high)})",
                _number(inner["value"]),
                _missed(result, all68),
                _number(pose_error(result, "yaw_error_deg")),
                _number(pose_error(result, "mean_euler_error_deg")),
            ]
        )
    return rows


def _missed(result: Result, entry: Result) -> str:
    """How many faces were missed, and the mean that leaving them out would give."""
    count = result["misses"]["total"]
    return f"{count} (found only: {_number(entry['value_found_only'])})" if count else "0"


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


def scoring_section(scoring: Result) -> list[str]:
    """How long scoring takes."""
    rows = [
        [
            row["what"],
            f"{row['processor_s']:.2f} s",
            f"{row['wall_s']:.2f} s",
            "" if row["target_s"] is None else f"<= {row['target_s']:g} s",
        ]
        for row in scoring["timings"]
    ]
    load = scoring["load_average"]
    return [
        "## Scoring",
        "",
        f"Wall times at a load average of {load['before']} before and {load['after']} after.",
        "",
        *_table(("what", "processor", "wall", "target"), rows),
        "",
    ]


def network_section(nets: Result) -> list[str]:
    """How long 2DASL's networks take for one face, and how many faces a second batches give."""
    one = [
        [
            row["network"],
            f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "",
            _ms(row["ms"]),
            _ms(row["processor_ms"]),
            "" if row["target_ms"] is None else f"<= {_ms(row['target_ms'])}",
        ]
        for row in nets["one_face"]
    ]
    alone = {
        r["network"]: r["faces_per_s"]
        for r in nets["batches"]
        if r["batch"] == 1 and r["way"] == "a session with two threads"
    }
    best = [
        [
            row["network"],
            f"{alone[row['network']]:.0f}",
            f"{row['faces_per_s']:.0f} ({row['way']}, {row['batch']} faces)",
            f"{row['ratio']:.2f}",
            f">= {row['target_ratio']:g}",
        ]
        for row in nets["best_on_two_threads"]
    ]
    load = nets["load_average"]
    batch_head = ("network", "one at a time, faces / s", "batches, faces / s", "ratio", "target")
    return [
        "## 2DASL's networks",
        "",
        f"Through onnxruntime, load average {load['before']} before and {load['after']} after;"
        " the landmarker is the yardstick. Definitions: `benchmarks/dasl_nets.py`.",
        "",
        *_table(("network", "parameters", "one face", "processor", "target"), one),
        "",
        "On two cores:",
        "",
        *_table(batch_head, best),
        "",
    ]


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


def accuracy_section(results: dict[str, Result]) -> list[str]:
    """AFLW2000-3D: our systems, curves, differences to the peer, published numbers."""
    rows = accuracy_rows(results)
    if not rows:
        return []
    lines = [
        "## Landmarks and pose, AFLW2000-3D protocol",
        "",
        "NME = mean distance / sqrt(w h) of the true 68-point box, in percent, original truth,"
        " 2D; mean of the three yaw bins; misses count as all points at the box's centre."
        " Pose: mean absolute degrees over the photos whose angles are at most 99 degrees."
        " `aflw2000-dev` is 100 of the 2,000 photos: do not compare it with"
        " numbers of the full set. Definitions: [docs/evaluation.md](../docs/evaluation.md).",
        "",
        *_table(ACCURACY_HEAD, rows),
        "",
    ]
    scored = {n: r for n, r in results.items() if r.get("protocol") == "aflw2000"}
    for dataset, group in report.groups(scored).items():
        peer = next((n for n, r in group.items() if PEER in report.system_name(r)), None)
        rows = report.difference_rows(group, peer, "nme_51") if peer else []
        if peer and rows:
            head = ("system", f"minus {report.system_name(group[peer])}", "where both found a face")
            lines += [
                f"The same {dataset} photos, inner 51 points (the jaw has two definitions):"
                " difference of the mean over bins, 95 % paired.",
                "",
            ]
            lines += [*_table(head, rows), ""]
        if warned := report.suspicion_rows(group):
            lines += [*_table(("system", "suspicion", "what to try"), warned), ""]
    lines += _curve_links(scored)
    return lines + ["### Published", "", *_published(("aflw2000",), scored)]


def scores_section(results: dict[str, Result]) -> list[str]:
    """Every other protocol: all numbers of our systems, curves, published numbers."""
    published = _load_published()
    flat = report.flattened(results)
    others = {n: r for n, r in flat.items() if r.get("protocol", "aflw2000") != "aflw2000"}
    names = sorted({r["protocol"] for r in others.values()} | {t["protocol"] for t in published})
    lines = []
    for protocol in names:
        if protocol == "aflw2000":
            continue
        ours = {n: r for n, r in others.items() if r["protocol"] == protocol and "numbers" in r}
        body = [*report.score_lines(ours), "", *_curve_links(ours)] if ours else []
        body += _published((protocol,), ours)
        lines += [f"## Protocol `{protocol}`", "", *body] if body else []
    return lines


def _published(protocols: tuple[str, ...], ours: dict[str, Result]) -> list[str]:
    published = {"tables": _load_published()}
    return [line for p in protocols for line in report.published_lines(published, p, ours)]


def _load_published() -> list[Result]:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))["tables"]


def _curve_links(scored: dict[str, Result]) -> list[str]:
    """Pictures of the curves that `main` writes."""
    names = sorted(report.curves(scored))
    return [line for name in names for line in (f"![{name}](curves/{name}.svg)", "")]


def results_page(results: dict[str, Result]) -> str:
    """The text of RESULTS.md."""
    lines = [
        "# Measured",
        "",
        "Written by `python benchmarks/report.py` from `benchmarks/results/*.json`; do not edit.",
        "",
    ]
    lines += accuracy_section(results)
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
    if nets := results.get("dasl_nets"):
        lines += network_section(nets)
    if scoring := results.get("scoring"):
        lines += scoring_section(scoring)
    if drawn := results.get("rasterize"):
        head = ("picture", "way", "one thread, median")
        lines += ["## Rasteriser and renderer", "", *_table(head, rasterise_rows(drawn)), ""]
    lines += dasl_sections(results)
    lines += pgn_sections(results)
    lines += eyes_sections(results)
    lines += mouth_sections(results)
    lines += retexture_sections(results)
    lines += rafare_sections(results)
    lines += scores_section(results)
    lines += ["## Where the numbers come from", ""]
    lines += [
        f"- `{name}.json`: `{r['command']}` at {r['commit']}, {r['date']}"
        for name, r in results.items()
        if "command" in r
    ]
    return "\n".join(lines) + "\n"


def readme_block(results: dict[str, Result]) -> str:
    """The README's tables: the methods, other systems, and the stages that have a target."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    lines = [*method_lines(results), *peer_lines(published, results)]
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ms(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def main() -> None:
    """Rewrite both files and the curves."""
    results = load_results()
    (ROOT / "benchmarks" / "RESULTS.md").write_text(results_page(results), encoding="utf-8")
    curves = report.curves(results)
    for name, canvas in curves.items():
        save_canvas(CURVES / f"{name}.svg", canvas)
    for old in CURVES.glob("*.svg"):
        if old.stem not in curves:
            old.unlink()
    readme = ROOT / "README.md"
    text = with_block(readme.read_text(encoding="utf-8"), readme_block(results))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
