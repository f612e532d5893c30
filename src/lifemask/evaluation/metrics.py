"""Landmark and pose errors, their pooling over yaw bins, and confidence intervals; pure numpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from lifemask.evaluation.align import DepthAlignment, align_depth

Pool = Literal["bins", "images"]
PointSet = Literal[68, 51, 21]

BIN_NAMES = ("0-30", "30-60", "60-90")
_SHARED_DRAWS = 4_000_000  # numbers drawn at once: 16 MB as counts, 32 MB as indices


def nme_normaliser_px(truth68: Float[ndarray, "*b 68 c"]) -> Float[ndarray, "*b"]:
    """`sqrt(w h)` of the box around the true 68 points, in px: not the diagonal, not the crop.

    Source: the benchmark code of 3DDFA (Zhu et al., "Face alignment across large poses", 2016).
    """
    size = truth68[..., :2].max(axis=-2) - truth68[..., :2].min(axis=-2)
    return np.sqrt(size[..., 0] * size[..., 1])


def nme_percent(
    predicted: Float[ndarray, "b n c"],
    truth: Float[ndarray, "b n c"],
    truth68: Float[ndarray, "b 68 k"],
    *,
    dims: Literal[2, 3] = 2,
    z_align: DepthAlignment = "none",
    visible: Bool[ndarray, "b n"] | None = None,
) -> Float[ndarray, "b"]:
    """Normalised mean error of each image in percent: `100 mean_j |p_j - g_j| / sqrt(w h)`.

    Args:
        predicted: (b, n, 2 or 3) photo px.
        truth: (b, n, 2 or 3) photo px, the same points.
        truth68: (b, 68, 2 or 3) photo px; its box normalises whichever points are scored.
        dims: coordinates that are compared.
        z_align: how the origin of w is fixed on both sides; used only when `dims` is 3.
        visible: (b, n) points that count; an image without any gives NaN.

    Raises:
        ValueError: `dims` is 3 and an input has no third coordinate.
    """
    if min(predicted.shape[-1], truth.shape[-1]) < dims:
        raise ValueError(f"dims={dims} needs {dims} coordinates, got {predicted.shape[-1]} and "
                         f"{truth.shape[-1]}")  # fmt: skip
    if dims == 3:
        predicted, truth = align_depth(predicted, z_align), align_depth(truth, z_align)
    weight = np.ones(truth.shape[:-1]) if visible is None else visible.astype(np.float64)
    difference = np.where(weight[..., None] > 0, predicted[..., :dims] - truth[..., :dims], 0.0)
    total = np.linalg.norm(difference, axis=-1).sum(axis=-1)
    count = weight.sum(axis=-1)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return 100.0 * mean / nme_normaliser_px(truth68)


def yaw_bins(yaw_deg: Float[ndarray, "b"]) -> Int[ndarray, "b"]:
    """Bin (b,) of each image: 0 for |yaw| <= 30, 1 for (30, 60], 2 for > 60 degrees."""
    return np.digitize(np.abs(yaw_deg), [30.0, 60.0], right=True)


def bin_means(values: Float[ndarray, "b"], bins: Int[ndarray, "b"]) -> Float[ndarray, "3"]:
    """Mean of the values in each of the three yaw bins; NaN for an empty bin."""
    return np.array([_mean(values[bins == k]) for k in range(len(BIN_NAMES))])


def pooled(values: Float[ndarray, "b"], bins: Int[ndarray, "b"], pool: Pool) -> float:
    """One number for a benchmark.

    Args:
        values: (b,) one error per image; NaN values are left out.
        bins: (b,) from `yaw_bins`.
        pool: "bins" is the mean of the three bin means, the number papers call "mean"; "images"
            is the mean over images, much lower on AFLW2000-3D where two thirds are near frontal.
            A bin without images gives NaN for "bins": the number would not be comparable.
    """
    return _mean(values) if pool == "images" else float(bin_means(values, bins).mean())


def angles_deg(a: Float[ndarray, "n 3"], b: Float[ndarray, "n 3"]) -> Float[ndarray, "n"]:
    """Angle (n,) in degrees between unit vectors; exact for small ones."""
    chord = np.linalg.norm(a - b, axis=1) / 2
    return np.degrees(2 * np.arcsin(np.clip(chord, 0.0, 1.0)))


def bootstrap_ci95(
    values: Float[ndarray, "b"],
    bins: Int[ndarray, "b"],
    pool: Pool,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of `pooled` under resampling of images, within bins for "bins"."""
    groups = [values[bins == k] for k in range(len(BIN_NAMES))] if pool == "bins" else [values]
    groups = [group[~np.isnan(group)] for group in groups]
    if any(len(group) == 0 for group in groups):
        return float("nan"), float("nan")
    means = [_resampled_means(g, samples, seed + k) for k, g in enumerate(groups)]
    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(low), float(high)


def _resampled_means(values: ndarray, samples: int, seed: int) -> ndarray:
    """Means (samples,) of bootstrap resamples; small sets share their draws between metrics."""
    n = len(values)
    if samples * n <= _SHARED_DRAWS:
        return _bootstrap_counts(n, samples, seed) @ values / n
    rng = np.random.default_rng(seed)
    rows = max(1, _SHARED_DRAWS // n)
    parts = [min(rows, samples - done) for done in range(0, samples, rows)]
    return np.concatenate([values[rng.integers(0, n, (k, n))].mean(axis=1) for k in parts])


@functools.lru_cache(maxsize=8)
def _bootstrap_counts(n: int, samples: int, seed: int) -> ndarray:
    """How often each of n items occurs in each resample, (samples, n) float32.

    One draw serves all metrics of a result: they share their images.
    """
    drawn = np.random.default_rng(seed).integers(0, n, (samples, n))
    cell = (drawn + n * np.arange(samples)[:, None]).reshape(-1)
    return np.bincount(cell, minlength=samples * n).reshape(samples, n).astype(np.float32)


@dataclass(frozen=True)
class Difference:
    """First system minus second on the same images.

    Attributes:
        value: difference of the pooled errors; negative: the first is better.
        ci95: 95 % interval under resampling of images, both systems together.
        images: images that count: those on which both have a value.
    """

    value: float
    ci95: tuple[float, float]
    images: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


def paired_difference(
    first: Float[ndarray, "b"],
    second: Float[ndarray, "b"],
    bins: Int[ndarray, "b"],
    pool: Pool,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """How much two systems differ on the same images.

    Far narrower than what two separate intervals suggest, since hard images are hard for both.

    Args:
        first: (b,) errors of one system per image; NaN where undefined.
        second: (b,) of the other, images in the same order.
        bins: (b,) from `yaw_bins`.
        pool: as `pooled`.
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    difference = first - second
    return Difference(
        pooled(difference, bins, pool),
        bootstrap_ci95(difference, bins, pool, samples=samples, seed=seed),
        int((~np.isnan(difference)).sum()),
    )


def identity_ratio(codes: Float[ndarray, "n d"], person: ndarray) -> float:
    """Variance between people over variance within people, of codes of several photos per person.

    `tr(S_b) / tr(S_w)` with S_b the covariance of the people's means and S_w the mean covariance
    within people, unbiased (one-way analysis of variance, random effects): codes that carry no
    identity give about 0, codes that are equal for all photos of a person give infinity.

    Args:
        codes: (n, d) one code per photo.
        person: (n,) whose photo it is; people with one photo are left out.

    Raises:
        ValueError: fewer than two people with two photos each.
    """
    names, counts = np.unique(person, return_counts=True)
    groups = [codes[person == name] for name in names[counts > 1]]
    if len(groups) < 2:
        raise ValueError("identity_ratio needs at least two people with two photos each")
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    total, people = sizes.sum(), len(groups)
    grand = np.concatenate(groups).mean(axis=0)
    within = sum(((g - g.mean(axis=0)) ** 2).sum() for g in groups) / (total - people)
    spread = sum(n * ((g.mean(0) - grand) ** 2).sum() for n, g in zip(sizes, groups, strict=True))
    typical = (total - (sizes**2).sum() / total) / (people - 1)
    between = max((spread / (people - 1) - within) / typical, 0.0)
    return float(between / within) if within > 1e-12 * between else float("inf")


def score_misses(
    predicted: Float[ndarray, "b n c"],
    found: Bool[ndarray, "b"],
    truth68: Float[ndarray, "b 68 k"],
) -> Float[ndarray, "b n c"]:
    """Predictions in which a missed face has all its points at the centre of the true box.

    So a miss costs what a system would pay that knows only where the face is (roughly 35 %), it
    cannot improve a mean, and the value does not depend on the system that missed.
    """
    low, high = truth68[..., :2].min(axis=1), truth68[..., :2].max(axis=1)
    filled = np.array(predicted, dtype=np.float64)
    filled[~found] = 0.0
    filled[~found, :, :2] = ((low + high) / 2)[~found, None, :]
    return filled


def euler_errors_deg(
    predicted: Float[ndarray, "b 3"], truth: Float[ndarray, "b 3"]
) -> Float[ndarray, "b 3"]:
    """Absolute difference of each angle in degrees, wrapped into [0, 180]."""
    return np.abs((predicted - truth + 180.0) % 360.0 - 180.0)


def geodesic_deg(
    predicted: Float[ndarray, "b 3 3"], truth: Float[ndarray, "b 3 3"]
) -> Float[ndarray, "b"]:
    """Angle in degrees of the rotation that takes one into the other; free of Euler's traps."""
    # |R - S|_F = 2 sqrt(2) sin(angle / 2), accurate for small angles where arccos is not.
    chord = np.linalg.norm(predicted - truth, axis=(-2, -1)) / np.sqrt(8.0)
    return np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0)))


def _mean(values: ndarray) -> float:
    """Mean without NaN values; NaN (and no warning) when nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def summary(
    values: Float[ndarray, "b"],
    bins: Int[ndarray, "b"],
    pool: Pool,
) -> dict[str, object]:
    """Value, bins, interval and count of one metric as plain numbers for a JSON file."""
    low, high = bootstrap_ci95(values, bins, pool)
    means = bin_means(values, bins)
    return {
        "value": rounded(pooled(values, bins, pool)),
        "bins": {name: rounded(float(v)) for name, v in zip(BIN_NAMES, means, strict=True)},
        "ci95": [rounded(low), rounded(high)],
        "images": int((~np.isnan(values)).sum()),
    }


def rounded(value: float) -> float | None:
    """Four decimals; None for what JSON cannot hold."""
    return round(value, 4) if math.isfinite(value) else None


def packed(values: Float[ndarray, "b"]) -> str:
    """Errors of single images as one short line for a JSON file: three decimals, "-" for none."""
    return " ".join(f"{v:.3f}" if np.isfinite(v) else "-" for v in values)


def found_text(found: Bool[ndarray, "b"]) -> dict[str, str]:
    """{"found": "1101..."} for "per_image", or nothing where no face was missed."""
    return {} if found.all() else {"found": "".join("01"[int(f)] for f in found)}


def found_by_both(first: Mapping[str, str], second: Mapping[str, str]) -> Bool[ndarray, "b"] | None:
    """Mask (b,) of the images that neither of two "per_image" entries missed; None if all."""
    masks = [np.array(list(kept["found"])) == "1" for kept in (first, second) if "found" in kept]
    return np.logical_and.reduce(masks) if masks else None


def unpacked(text: str) -> Float[ndarray, "b"]:
    """What `packed` wrote, (b,)."""
    return np.array([float("nan") if word == "-" else float(word) for word in text.split()])
