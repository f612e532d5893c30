"""RESULTS.md's sections about 2DASL: held-out crops, paired differences and the ablation."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from lifemask.evaluation.report import table
from lifemask.training.ablation_table import spread, verdict

Result = dict[str, Any]
SOURCES = {"none": "empty", "self": "own points", "detector": "landmarker's", "oracle": "true"}
ABLATED = (
    ("aflw21", "AFLW-21 NME %"),
    ("renders-research", "renders NME %"),
    ("renders-research_shape_mm", "shape mm"),
    ("renders-research_depth", "depth %"),
    ("aflw21_identity", "identity, AFLW"),
)


def dasl_sections(results: dict[str, Result]) -> list[str]:
    """Both sections; empty where nothing was measured."""
    lines: list[str] = []
    measured = [r for r in results.values() if r.get("benchmark") == "dasl"]
    if measured:
        lines += ["## 2DASL on held-out crops", ""]
        lines += [
            "NME in %: renders over sqrt(w h), mean of three yaw bins; AFLW-21 without ears and"
            " chin and YouTube frames' inner 51 over 0.6 crop sides, without learned offsets."
            " 95 % bootstrap over faces.",
            "",
        ]
    for result in measured:
        for name, sets in result["sets"].items():
            lines += _held_out(result["family"], name, sets)
    for result in results.values():
        if result.get("benchmark") == "paired":
            lines += _paired(result)
    for result in results.values():
        if result.get("benchmark") == "ablation" and result["method"] == "dasl":
            lines += _ablation(result)
    return lines


def _held_out(family: str, name: str, sets: Result) -> list[str]:
    """One set: rows are sources of the map, columns stages and what stage 2 changed."""
    shapes = "shape_mm" in sets["stage 2"]["self"]
    head = ["map", "stage 1", "stage 2", "change (95 %)"]
    head += ["shape mm, stage 1", "stage 2"] if shapes else []
    rows = []
    for source, words in SOURCES.items():
        stages = [sets[stage][source] for stage in ("stage 1", "stage 2")]
        change = sets["differences"][f"stage 2 - stage 1, {source}, nme"]
        row = [words, *(f"{s['nme']['mean']:.2f}" for s in stages), _signed(change)]
        row += [f"{s['shape_mm']['mean']:.2f}" for s in stages] if shapes else []
        rows.append(row)
    for control, numbers in sets["controls"].items():
        row = [f"({control})", "", f"{numbers['nme']['mean']:.2f}", ""]
        row += ["", f"{numbers['shape_mm']['mean']:.2f}"] if shapes else []
        rows.append(row)
    faces = sets["stage 2"]["self"]["nme"]["faces"]
    pairs = ", ".join(
        f"{pair} {_signed(sets['differences'][pair])}"
        for pair in ("self - none", "detector - self", "oracle - self")
    )
    return [f"`{family}`, {name} ({faces}): {pairs}.", "", *table(tuple(head), rows), ""]


def _signed(change: Result) -> str:
    low, high = change["ci95"]
    return f"{change['mean']:+.2f} ({low:+.2f} to {high:+.2f})"


def _paired(result: Result) -> list[str]:
    """One row per family and error: both values and their difference."""
    rows = [
        [
            f"`{pair['first'][0]}`",
            f"{entry['metric']}, mean of {entry['pool']}",
            f"{entry['first']:.2f}",
            f"{entry['second']:.2f}",
            _signed({"mean": entry["difference"], "ci95": entry["ci95"]}),
        ]
        for pair in result["pairs"]
        for entry in pair["differences"]
        if entry["faces"] == "all"
    ]
    first, second = (result["pairs"][0][side][1] for side in ("first", "second"))
    head = ("weights", "error", first, second, "difference (95 %, paired)")
    return [f"## {first} and {second} on {result['dataset']}", "", *table(head, rows), ""]


def _ablation(result: Result) -> list[str]:
    head, rows = ablation_rows(result, ABLATED)
    return [
        "## What the parts of 2DASL do",
        "",
        f"`{result['command']}`: {result['steps']} steps of stage 1 and half as many of stage 2,"
        f" seeds {', '.join(map(str, result['seeds']))}; mean (range) over seeds. A part helps (or"
        " hurts) where taking it away changes the mean by more than the larger range.",
        "",
        *table(head, rows),
        "",
    ]


def ablation_rows(
    result: Result, ablated: tuple[tuple[str, str], ...], higher: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Head and rows of an ablation: one row per part, each metric without it, what the part does.

    Args:
        result: of `lifemask ablate`.
        ablated: metrics to show and their words; those that the runs lack are left out.
        higher: those of which more is better, beside ratios.
    """
    shown = [(key, words) for key, words in ablated if key in result["baseline"][0]]
    rows = [["(nothing)"] + [_values([run[key] for run in result["baseline"]]) for key, _ in shown]]
    for part in result["parts"]:
        row = [part["part"]]
        for key, _ in shown:
            base = [run[key] for run in result["baseline"]]
            without = [run[key] for run in part["metrics"] if key in run]
            said = verdict(base, without, highest=key.endswith("_ratio") or key in higher)
            if key.endswith("_identity"):  # neither small nor large is good; true heads have 1
                said = {"hurts": "raises it", "helps": "lowers it"}.get(said, said)
            row.append(_values(without) + (f", {said}" if said != "no effect" else ""))
        rows.append(row)
    return ("taken away", *(words for _, words in shown)), rows


def _values(values: list[float]) -> str:
    if not values:
        return "-"
    digits = 2 if max(map(abs, values)) >= 1 else 4
    return f"{fmean(values):.{digits}f} ({spread(values):.{digits}f})"
