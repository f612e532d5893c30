"""From the metrics of an ablation's runs to verdicts, and their table as markdown and json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lifemask.assets import UserError
from lifemask.evaluation.report import table
from lifemask.training.checkpoint import write_json
from lifemask.training.trainable import Switch

BASELINE = "baseline"
HELPS, HURTS, NO_EFFECT, UNKNOWN = "helps", "hurts", "no effect", "unknown"
CLAIMS = {"worse": HELPS, "better": HURTS, "any": None}
Results = Mapping[tuple[str, int], Mapping[str, Any]]


def verdict(baseline: Sequence[float], without: Sequence[float], highest: bool = False) -> str:
    """Whether a part helps, judged by the metric with and without it.

    The difference of the means counts only where it exceeds the spread of the seeds, the larger
    of the two ranges (highest minus lowest value).

    Args:
        baseline: the metric of each seed, with the part.
        without: the metric of each seed, without it.
        highest: a higher value is better.

    Returns:
        "helps" (the metric is worse without it), "hurts", "no effect", or "unknown" with fewer
        than two seeds on either side.
    """
    if min(len(baseline), len(without)) < 2:
        return UNKNOWN
    difference = fmean(without) - fmean(baseline)
    if abs(difference) <= spread(baseline, without):
        return NO_EFFECT
    return HURTS if (difference < 0) != highest else HELPS


def spread(*groups: Sequence[float]) -> float:
    """The largest range (highest minus lowest value) of the groups."""
    return max(max(values) - min(values) for values in groups)


def summary(
    switches: Sequence[Switch], seeds: Sequence[int], results: Results, select: str
) -> dict[str, Any]:
    """Verdicts on all parts: {"baseline": metrics by seed, "parts": [...], "markdown": [...]}.

    Args:
        switches: the parts taken away.
        seeds: of the runs.
        results: by part and seed: {"metrics": ...} or {"error": ...}.
        select: metric of the switches that name none.

    Raises:
        UserError: a switch's metric is not among those measured.
    """
    base = [results[BASELINE, seed]["metrics"] for seed in seeds]
    parts = [_part(switch, seeds, results, base, switch.metric or select) for switch in switches]
    markdown = table(
        ["part", "without it", "metric", "baseline", "without", "difference", "spread",
         "the part", "claim"],
        [_row(part) for part in parts],
    )  # fmt: skip
    return {"baseline": base, "parts": parts, "markdown": markdown}


def _part(
    switch: Switch,
    seeds: Sequence[int],
    results: Results,
    base: Sequence[Mapping[str, float]],
    metric: str,
) -> dict[str, Any]:
    if metric not in base[0]:
        valid = ", ".join(base[0])
        raise UserError(f"no metric {metric!r} for {switch.name!r}; valid: {valid}")
    baseline = [run[metric] for run in base]
    runs = [results.get((switch.name, seed), {}) for seed in seeds]
    without = [run["metrics"][metric] for run in runs if "metrics" in run]
    without = [value for value in without if math.isfinite(value)]
    failed = len(seeds) - len(without)
    found = verdict(baseline, without, switch.highest)
    return {
        "part": switch.name,
        "overrides": list(switch.overrides),
        "metric": metric,
        "higher_is_better": switch.highest,
        "baseline": baseline,
        "without": without,
        "difference": fmean(without) - fmean(baseline) if without else None,
        "spread": spread(baseline, without) if without else None,
        "failed": failed,
        "metrics": [run["metrics"] for run in runs if "metrics" in run],
        "verdict": found,
        "expected": CLAIMS[switch.expected],
        "claim": _claim(CLAIMS[switch.expected], found),
    }


def _claim(expected: str | None, found: str) -> str:
    """What became of a claim: "holds", "refuted", "not shown", or "-" where there is none."""
    if expected is None:
        return "-"
    if found == expected:
        return "holds"
    return "refuted" if found in (HELPS, HURTS) else "not shown"


def _row(part: Mapping[str, Any]) -> list[str]:
    baseline, without = part["baseline"], part["without"]
    failed = f", {part['failed']} failed" if part["failed"] else ""
    difference = part["difference"]
    share = 100 * difference / fmean(baseline) if difference is not None else math.nan
    change = "-" if difference is None else f"{difference:+.4g} ({share:+.1f} %)"
    return [
        part["part"],
        " ".join(f"`{o}`" for o in part["overrides"]),
        part["metric"],
        f"{fmean(baseline):.4g}",
        f"{fmean(without):.4g}{failed}" if without else f"-{failed}",
        change,
        "-" if part["spread"] is None else f"{part['spread']:.3g}",
        part["verdict"],
        part["claim"],
    ]


def write_tables(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `ablation.json` and `ablation.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "ablation.json", {k: v for k, v in result.items() if k != "markdown"})
    head = (
        f"# What the parts of {result['method']} do\n\n"
        f"Recipe {result['recipe']}, family {result['family']}, {result['steps']} steps, "
        f"{len(result['seeds'])} seeds, commit {result['commit'] or 'unknown'}. Means over the "
        "seeds; a difference counts where it exceeds the larger range of the seeds.\n\n"
    )
    temporary = folder / ".ablation.md.part"
    temporary.write_text(head + "\n".join(result["markdown"]) + "\n", encoding="utf-8")
    temporary.replace(folder / "ablation.md")
