"""RESULTS.md's section about lips."""

from __future__ import annotations

from typing import Any

from lifemask.evaluation.report import table

Result = dict[str, Any]
_HEADS = [
    "head", "opening, mean error", "rank correlation", "shut, look closed", "parted, look closed",
]  # fmt: skip


def mouth_sections(results: dict[str, Result]) -> list[str]:
    """All sections; empty where nothing was measured."""
    found = [r for r in results.values() if r.get("benchmark") == "mouth"]
    if not found:
        return []
    lines = ["## Mouth", ""]
    for result in found:
        lines += _close_ups(result["close_ups"])
        renders, portraits = result["renders"], result["portraits"]
        lines += _heads(
            renders,
            f"Heads by {result['method']}, refined, of {renders['faces']} held-out renders of 384"
            " px whose mouth is at least half in view",
        )
        lines += _heads(
            portraits,
            f"{portraits['portraits']} FaceSynthetics portraits, which no open weights saw"
            f" ({portraits['misses']} missed), gaps of the lips over the distance of eyes and"
            " mouth, as the picture shows them (of their points shut lips are a little apart)",
        )
        lines += [f"`{result['command']}`, commit {result['commit']}.", ""]
    return lines


def _close_ups(scores: Result) -> list[str]:
    row = [
        str(scores["mouths"]),
        f"{scores['opening']:.3f}",
        f"{scores['correlation']:.2f}",
        _percent(scores["shut"]),
        _percent(1 - scores["parted"]),
    ]
    heads = ["mouths", "opening, mean error", "correlation", "shut, called shut"]
    text = (
        "The network alone, on close-ups of held-out renders; openings are in widths of the mouth,"
        " below 0.03 shut, above 0.1 parted:"
    )
    return [text, "", *table([*heads, "parted, called shut"], [row]), ""]


def _heads(result: Result, text: str) -> list[str]:
    rows, counts = [], ""
    for row in result["systems"]:
        rows.append([row["system"], _number(row["opening"]), f"{row['rank correlation']:.2f}"])
        if "shut mouths" in row:
            rows[-1] += [_percent(row[f"{kind}, look closed"]) for kind in ("shut", "parted")]
            counts = f" ({row['shut mouths']} of them shut, {row['parted mouths']} parted)"
    return [f"{text}{counts}:", "", *table(_HEADS[: len(rows[0])], rows), ""]


def _number(entry: Result) -> str:
    low, high = entry["ci95"]
    return f"{entry['value']:.3f} ({low:.3f}-{high:.3f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
