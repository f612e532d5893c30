"""RESULTS.md's section about appearance: albedo, light, hidden skin, tones, photos, identity."""

from __future__ import annotations

from typing import Any

from lifemask.evaluation.report import table
from report_dasl import ablation_rows

Result = dict[str, Any]
HEADS = (
    ("spread_ratio", "A / T", 3),
    ("rmse", "rmse", 4),
    ("rmse_visible", "seen", 4),
    ("rmse_hidden", "hidden", 4),
    ("rmse_raw", "no gain", 4),
    ("hue_deg", "hue deg", 2),
    ("relight_psnr_db", "relight dB", 2),
)
PICTURES = (
    ("rerender_psnr_db", "re-render dB", 2),
    ("rerender_ssim", "SSIM", 3),
    ("completeness", "complete", 3),
    ("high_pass_ratio", "detail hidden / seen", 2),
    ("seam_mirror", "mirror line", 2),
    ("seam_border", "border of the seen", 2),
    ("seam_chart", "border of the map", 2),
)
BEARDS = ("beard_kept", "kept", 2), ("rmse_beard", "rmse on the beard", 4)
ABLATED = (
    ("albedo", "rmse x 1000"),
    ("albedo_seen", "seen"),
    ("albedo_hidden", "hidden"),
    ("hue", "hue x 1000"),
    ("invariance", "A / T x 100"),
    ("photo_db", "re-render dB"),
)
TIMES = {"albedo": 1e3, "albedo_seen": 1e3, "albedo_hidden": 1e3, "hue": 1e3, "invariance": 1e2}
TONE = "dark", "medium", "light"


def retexture_sections(results: dict[str, Result]) -> list[str]:
    """All sections; empty where nothing was measured."""
    lines: list[str] = []
    for stem, result in results.items():
        if result.get("benchmark") == "ablation" and result["method"] == "retexture":
            lines += _ablation(result)
        if result.get("benchmark") != "retexture":
            continue
        lines += [f"## Appearance, `{stem}`", ""]
        if "synthetic" in result:
            lines += _heads(result["synthetic"], result)
        if "bearded" in result:
            lines += [f"{result['bearded']['heads']} held-out heads with full beards or goatees"]
            lines[-1] += " that stand off the skin (kept: contrast to the skin over the true one):"
            lines += ["", *_rows(result["bearded"], BEARDS), ""]
        if "photos" in result:
            lines += [f"{result['photos']['heads']} photos with the pipeline's geometry:", ""]
            lines += [*_rows(result["photos"], PICTURES), ""]
        if "identity" in result:
            lines += _identity(result["identity"])
    return lines


def _heads(scores: Result, result: Result) -> list[str]:
    lines = [
        f"{scores['heads']} held-out heads (seed {result['seed']}) in {result['lights']} lights,"
        " true geometry; 95 % bootstrap over heads. A / T: std / mean of the albedo over lights"
        " over the photo's own; rmse: linear, one gain per picture. Definitions:"
        " `lifemask.evaluation.retexture`.",
        "",
        *_rows(scores, HEADS),
        "",
        *_rows(scores, PICTURES),
        "",
        "By the tone of the skin, dark / medium / light:",
        "",
    ]
    rows = [
        [name, *(_tones(one[key], digits) for key, _, digits in HEADS)]
        for name, one in scores["methods"].items()
    ]
    lines += [*table(("method", *(title for _, title, _ in HEADS)), rows), ""]
    for method, found in scores["targets"].items():
        rows = [[t["target"], _text(t, 4, "value"), "yes" if t["met"] else "no"] for t in found]
        lines += [*table((f"target, {method}", "value (95 %)", "met"), rows), ""]
    return lines


def _ablation(result: Result) -> list[str]:
    def scaled(run: Result) -> Result:
        return {k: v * TIMES.get(k, 1.0) for k, v in run.items() if isinstance(v, int | float)}

    parts = [p | {"metrics": [scaled(run) for run in p["metrics"]]} for p in result["parts"]]
    shown = result | {"baseline": [scaled(run) for run in result["baseline"]], "parts": parts}
    head, rows = ablation_rows(shown, ABLATED, ("photo_db",))
    return [
        "## What the parts of the re-renderable texture do",
        "",
        f"`{result['command']}`: {result['steps']} steps, seeds"
        f" {', '.join(map(str, result['seeds']))}; mean (range) over seeds, development heads. A"
        " part helps (or hurts) where taking it away changes the mean by more than the larger"
        " range.",
        "",
        *table(head, rows),
        "",
    ]


def _identity(scores: Result) -> list[str]:
    rows = [
        [name, *(_text(one[key], 3) for key in ("photo", "other", "relative"))]
        for name, one in scores["methods"].items()
    ]
    head = ("method", "render and its photo", "render and another photo", "first / photos")
    return [
        f"Identity, {scores['people']} people: cosine of dlib's codes; two photos of one person"
        f" {_text(scores['photos'], 3)}, of strangers {_text(scores['strangers'], 3)}.",
        "",
        *table(head, rows),
        "",
    ]


def _rows(scores: Result, columns: tuple[tuple[str, str, int], ...]) -> list[str]:
    rows = [
        [name, *(_text(one[key], digits) for key, _, digits in columns)]
        for name, one in scores["methods"].items()
    ]
    return table(("method", *(title for _, title, _ in columns)), rows)


def _text(entry: Result, digits: int, key: str = "mean") -> str:
    if entry[key] is None:
        return "-"
    low, high = (f"{v:.{digits}f}" if v is not None else "-" for v in entry["ci95"])
    return f"{entry[key]:.{digits}f} ({low} to {high})"


def _tones(entry: Result, digits: int) -> str:
    values = [entry["tone"][t] for t in TONE]
    return " / ".join("-" if v is None else f"{v:.{digits}f}" for v in values)
