"""RESULTS.md's section about lids and gaze."""

from __future__ import annotations

from typing import Any

from lifemask.evaluation.report import table

Result = dict[str, Any]


def eyes_sections(results: dict[str, Result]) -> list[str]:
    """All sections; empty where nothing was measured."""
    found = [r for r in results.values() if r.get("benchmark") == "eyes"]
    if not found:
        return []
    lines = ["## Eyes", ""]
    for result in found:
        lines += _close_ups(result["close_ups"])
        lines += _renders(result["renders"], result["method"])
        lines += _portraits(result["portraits"])
        lines += [f"`{result['command']}`, commit {result['commit']}.", ""]
    return lines


def _close_ups(scores: Result) -> list[str]:
    row = [
        str(scores["eyes"]),
        f"{scores['opening']:.3f}",
        _percent(scores["shut"]),
        _percent(1 - scores["open"]),
        f"{scores['gaze_deg']:.1f} ({scores['gaze_still_deg']:.1f})",
    ]
    heads = ["eyes", "opening, mean error", "shut, called shut", "open, called shut"]
    text = "The network alone, on close-ups of held-out renders, half of them with lids drawn anew:"
    return [text, "", *table([*heads, "gaze deg (straight ahead)"], [row]), ""]


def _renders(result: Result, method: str) -> list[str]:
    rows = [
        [
            row["system"],
            _number(row["opening"], 3),
            f"{row['correlation']:.2f}",
            _percent(row["shut, called shut"]),
            _percent(row["open, called shut"]),
            f"{row['auc']:.3f}",
            _number(row["gaze_deg"], 1),
        ]
        for row in result["systems"]
    ]
    shut = result["systems"][0]["shut eyes"]
    text = (
        f"Heads by {method}, refined, of {result['faces']} held-out renders of 384 px"
        f" ({result['eyes in view']} eyes at least half in view, {shut} of them shut):"
    )
    heads = [
        "head", "opening, mean error", "correlation", "shut, called shut", "open, called shut",
        "AUC of shut", "gaze deg",
    ]  # fmt: skip
    return [text, "", *table(heads, rows), ""]


def _portraits(result: Result) -> list[str]:
    rows = [
        [
            row["system"],
            _number(row["lids_percent"], 2),
            f"{row['rank correlation']:.2f}",
            _number(row["opening_2d"], 3),
        ]
        for row in result["systems"]
    ]
    text = (
        f"{result['portraits']} FaceSynthetics portraits, which no open weights saw"
        f" ({result['misses']} missed): distance of the lids' points in % of that of the outer"
        " corners, each eye laid on the true one; opening as the picture shows it:"
    )
    return [text, "", *table(["head", "lids %", "rank correlation", "opening error"], rows), ""]


def _number(entry: Result, digits: int) -> str:
    low, high = entry["ci95"]
    return f"{entry['value']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
