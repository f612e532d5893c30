"""Scores of appearance methods on faces in several lights: the albedo, what is hidden, new light.

Every value is one number per head, the mean over its pictures; means, 95 % bootstrap intervals
over heads and means by the tone of the skin follow. All is judged on the face's chart
(`methods._retexture_chart`), to which any method's texture is brought, and in the pictures' pixels.

| value | meaning |
|---|---|
| completeness | share of the face's texels that are finite, luminance inside (0.01, 0.99) |
| high_pass_ratio | energy of fine detail on hidden texels over that on visible ones |
| spread_albedo, spread_photo | std / mean over lights, one gain per picture, on visible texels |
| spread_ratio | their quotient: how much of the light's change the albedo keeps |
| rmse, l1 | linear RGB against the truth, one gain per picture; `_raw` without gain |
| ..._visible, ..._hidden | the same on texels that the picture shows or hides |
| hue_deg | angle between predicted and true RGB |
| rerender_psnr_db, rerender_ssim | albedo in the found light over the photo, in the mask's box |
| beard_kept | contrast of a beard to the skin seen, log luminance, over the true one |
| rmse_beard | linear RGB on a beard that stands out, with the gain of the skin |
| relight_psnr_db | albedo against the true one under a new light, true normals, one gain |
| seam_mirror, seam_border, seam_chart | colour steps across a line over those beside it: the
  mirror line, the border of what is visible, the chart's border in the head's own texture |

Compare ratios with the row of the truth: lips and brows have detail and edges of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from lifemask.evaluation import metrics
from lifemask.evaluation._albedo_errors import (
    albedo_errors,
    beard_errors,
    mean_luminance,
    relight_psnr_db,
    resized,
    tone_terciles,
)
from lifemask.evaluation._picture_measures import box_of, psnr_db, ssim
from lifemask.evaluation._retexture_cases import (
    CHART_PX,
    Dresser,
    FaceCase,
    outer_faces,
    shows_beard,
)
from lifemask.evaluation._texture_measures import (
    border_steps,
    completeness,
    high_pass_ratio,
    hue_error_deg,
    light_spread,
    mirror_steps,
    seam_ratio,
)
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.lighting import lambert_transfer, linear_to_srgb, shading
from lifemask.graphics.uv import create_uv_atlas, sample_uv
from lifemask.methods._retexture_chart import create_texture_chart
from lifemask.types import Appearance, Lighting

Values = dict[str, float]
Answer = Callable[[FaceCase, int], "Judged"]
TRUTH, TERCILES = "truth", ("dark", "medium", "light")
_LAYOUT_PX = 512
_GEOMETRIC = ("high_pass_ratio", "seam_mirror", "seam_border", "seam_chart")
"""Ratios whose means are taken of the logarithm."""


@dataclass(frozen=True)
class Judged:
    """A method's answer to one picture, on the chart.

    Attributes:
        albedo: (3, n, n) linear.
        light: (9, 3) of the whole picture, camera frame.
        detail: (27, m, m) light of each texel, channel-major, of a map of any size; or None.
        texture: (3, m, m) the albedo over the model's own texture coordinates; or None.
    """

    albedo: Float[Tensor, "3 n n"]
    light: Float[Tensor, "9 3"]
    detail: Float[Tensor, "27 m m"] | None = None
    texture: Float[Tensor, "3 m m"] | None = None


def judged(appearance: Appearance, case: FaceCase) -> Judged:
    """An appearance brought to the case's chart."""
    albedo = sample_uv(appearance.albedo.float(), case.chart.model_uv)
    detail = appearance.detail_light
    light = appearance.lighting.sh.float()
    return Judged(case.chart.spread(albedo), light, detail, appearance.albedo)


@lru_cache(maxsize=2)
def head_layout(model: FaceModel) -> tuple[Bool[Tensor, "m m"], Bool[Tensor, "m m"]]:
    """Texels of a head's own texture that its skin covers, and those that the chart covers."""
    topology, chart = model.topology, create_texture_chart(model, CHART_PX)
    atlas = create_uv_atlas(
        topology.uvs, topology.faces_uv, topology.faces, _LAYOUT_PX, face_mask=outer_faces(model)
    )
    inside = chart.in_map[atlas.face_ids.long()]
    covered = torch.stack((torch.ones_like(inside), inside), 1).float()
    skin, inside = atlas.scatter(covered, gutter=False) > 0
    return skin, inside


def answers_of(dresser: Dresser) -> Answer:
    """What a method answers to each picture of a case."""

    @torch.no_grad()
    def answer(case: FaceCase, index: int) -> Judged:
        return judged(dresser(case.photos[index], case.geometry, case.regions), case)

    return answer


def true_answer(case: FaceCase, index: int) -> Judged:
    """The truth itself, for what a perfect answer would score.

    Raises:
        ValueError: a photo, whose truth is not known.
    """
    if case.truth is None:
        raise ValueError(f"the truth of {case.name} is not known")
    return Judged(case.truth.albedo, case.truth.lights[index])


def rerender(case: FaceCase, index: int, answer: Judged) -> Float[Tensor, "3 s s"]:
    """The answer in its own light over the photo, sRGB; pixels off the mask keep the photo."""
    albedo = case.at_pixels(answer.albedo)
    if answer.detail is None:
        lit = shading(case.normals, answer.light).movedim(-1, 0)
    else:
        own = case.at_pixels(answer.detail.float()).unflatten(0, (3, 9))
        lit = torch.einsum("ckhw,hwk->chw", own, lambert_transfer(case.normals))
    drawn = linear_to_srgb((albedo * lit.clamp(min=0)).clamp(0, 1))
    return torch.where(case.pixels, drawn, case.photos[index])


@torch.no_grad()
def score_case(case: FaceCase, answer: Answer) -> Values:
    """All values of one head, means over its pictures."""
    found = [answer(case, k) for k in range(len(case.photos))]
    rows = [_picture_values(case, k, one) for k, one in enumerate(found)]
    out = {name: _mean([row[name] for row in rows], name) for name in rows[0]}
    seen = case.mask & case.visible
    photos = torch.stack([case.photo_map(k) for k in range(len(found))])
    out["spread_photo"] = light_spread(photos, seen)
    out["spread_albedo"] = light_spread(torch.stack([one.albedo for one in found]), seen)
    out["spread_ratio"] = out["spread_albedo"] / out["spread_photo"]
    return out


def _picture_values(case: FaceCase, index: int, answer: Judged) -> Values:
    albedo, mask, visible = answer.albedo, case.mask, case.visible
    out = {
        "completeness": completeness(albedo, mask),
        "high_pass_ratio": high_pass_ratio(albedo, mask, visible),
        "seam_mirror": seam_ratio(albedo, mask, mirror_steps(len(mask))),
        "seam_border": seam_ratio(albedo, mask, border_steps(visible)),
        "seam_chart": float("nan"),
    }
    if answer.texture is not None:
        layout, inside = head_layout(case.model)
        texture = resized(answer.texture.float(), len(layout))
        out["seam_chart"] = seam_ratio(texture, layout, border_steps(inside))
    rows, columns = box_of(case.pixels)
    drawn, photo = (
        p[:, rows, columns] for p in (rerender(case, index, answer), case.photos[index])
    )
    out |= {"rerender_psnr_db": psnr_db(drawn, photo), "rerender_ssim": ssim(drawn, photo)}
    return out | _true_values(case, index, answer)


def _true_values(case: FaceCase, index: int, answer: Judged) -> Values:
    """What needs the truth; nothing without it."""
    if case.truth is None:
        return {}
    out: Values = {}
    errors = albedo_errors(answer.albedo, case.truth.albedo, case.mask, case.visible)
    for (gain, texels), error in errors.items():
        end = {"all": "", "visible": "_visible", "invisible": "_hidden"}[texels]
        end += "" if gain else "_raw"
        out["rmse" + end], out["l1" + end] = error.rmse, error.l1
    out |= _beard_values(case, answer.albedo)
    out["hue_deg"] = hue_error_deg(answer.albedo, case.truth.albedo, case.mask)
    shown = case.pixels
    color, true = (case.at_pixels(a)[:, shown].T for a in (answer.albedo, case.truth.albedo))
    new = Lighting(case.truth.new_lights[index])
    out["relight_psnr_db"] = relight_psnr_db(color, true, case.normals[shown], new)
    return out


def _beard_values(case: FaceCase, albedo: Float[Tensor, "3 n n"]) -> Values:
    """How much of a beard an albedo keeps; NaN where none is seen."""
    if case.truth is None or case.beard is None or not shows_beard(case):
        return {"beard_kept": float("nan"), "rmse_beard": float("nan")}
    skin = case.mask & case.visible
    return beard_errors(albedo, case.truth.albedo, case.beard, skin)


def score(cases: Iterable[FaceCase], answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Scores of several methods on the same faces, each face made once.

    Args:
        cases: faces, one at a time.
        answers: by the name of the method.

    Returns:
        JSON-ready: "heads", "pictures", "visible_share", and by method the values' means,
        intervals, means by tone, and every head's own values.
    """
    values: dict[str, list[Values]] = {name: [] for name in answers}
    tone, seen, names, pictures = [], [], [], 0
    for case in cases:
        for name, answer in answers.items():
            values[name].append(score_case(case, answer))
        names.append(case.name)
        pictures += len(case.photos)
        seen.append(float(case.visible[case.mask].float().mean()))
        if case.truth is not None:
            tone.append(mean_luminance(case.truth.albedo, case.mask))
    terciles = np.array(tone_terciles(np.array(tone))) if tone else None
    return {
        "heads": len(names),
        "pictures": pictures,
        "names": names,
        "visible_share": metrics.rounded(float(np.mean(seen))) if seen else None,
        "tone": None if terciles is None else terciles.tolist(),
        "methods": {name: _summary(rows, terciles) for name, rows in values.items()},
    }


def _summary(rows: Sequence[Values], terciles: ndarray | None) -> dict[str, Any]:
    out = {}
    for name in rows[0] if rows else ():
        column = np.array([row[name] for row in rows])
        entry = metric_entry(name, column)
        if terciles is not None:
            entry["tone"] = {
                t: metrics.rounded(_mean(column[terciles == t], name)) for t in TERCILES
            }
        out[name] = entry | {"heads": [metrics.rounded(float(v)) for v in column]}
    return out


def metric_entry(name: str, column: Float[ndarray, "n"]) -> dict[str, Any]:
    """Mean over heads, NaN left out, with its 95 % interval and the number of heads."""
    logarithm = name in _GEOMETRIC
    with np.errstate(divide="ignore"):
        used = np.log(column) if logarithm else column
    low, high = metrics.bootstrap_ci95(used, np.zeros(len(used), np.int64), "images")
    if logarithm:
        low, high = math.exp(low), math.exp(high)
    return {
        "mean": metrics.rounded(_mean(column, name)),
        "ci95": [metrics.rounded(low), metrics.rounded(high)],
        "count": int((~np.isnan(column)).sum()),
    }


def head_values(result: Mapping[str, Any], method: str, name: str) -> Float[ndarray, "n"]:
    """A method's values of one kind by head from the result of `score`; NaN where undefined."""
    column = result["methods"][method][name]["heads"]
    return np.array([float("nan") if v is None else v for v in column])


def difference(result: Mapping[str, Any], first: str, second: str, name: str) -> dict[str, Any]:
    """First method minus second on the same heads: mean and 95 % paired interval."""
    gap = head_values(result, first, name) - head_values(result, second, name)
    return metric_entry(name="difference", column=gap)


def _mean(values: Sequence[float] | ndarray, name: str) -> float:
    """Mean without NaN, of the logarithm for ratios; NaN where nothing is left."""
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return float("nan")
    if name in _GEOMETRIC:
        with np.errstate(divide="ignore"):
            return float(np.exp(np.log(kept).mean()))
    return float(kept.mean())
