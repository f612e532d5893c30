"""Settings of a run of pairs, a pair, and how a shard keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data._pairs_compose import Blend
from lifemask.data.synthetic import HELD_OUT_SEED

if TYPE_CHECKING:
    from lifemask.data._pairs_head import HeadName
    from lifemask.data._sample_codec import Record

Mode = Literal["pairs", "fitted_only", "renders_only"]
HeadChoice = Literal["lifemask", "ict", "both"]
DEVELOPMENT_SEED = 910_000_000
"""Of held-out pairs to develop on; other held-out runs have other seeds."""
DEPTH_STEPS = 16_000
"""Steps of stored depth per half-crop."""
NO_DEPTH = -32_768
NORMAL_STEPS = 127
MOST_WARP_MM = 6.0
"""Heads that are bent farther are no faces."""
LATER: dict[str, Any] = {"warp_mm": 0.0}
"""Facts and settings that older shards and manifests do not have, and what they are there."""


@dataclass(frozen=True)
class PairsConfig:
    """Settings of a run; every pair follows from them and its number.

    Attributes:
        seed: of the run; `synthetic.HELD_OUT_SEED` or more for pairs that are never trained on.
        size: side of the crops in px.
        grid: voxels of the lattice per side.
        box: side of the box filter in voxels, odd.
        near: most points near the surface; a tenth as many lie anywhere in the cube.
        band: how near, half-crops.
        photos: "renders" of other heads, "aflw21", or a folder of pictures.
        mode: "pairs": heads swapped into photos; "fitted_only": the photos with their own fits as
            truth; "renders_only": heads over a background, without a photo.
        heads: face models of the swapped heads.
        blend: "poisson", or "paste" to leave it out.
        complete: "mesh": eyes, teeth and tongue are rendered in their place; "none": black holes.
        inpaint: how what the old face leaves is filled: "harmonic", or by a network, "net".
        inpaint_weights: folder of that network's weights; "" for those of the package.
        shard_size: pairs per shard.
        bank_size: skins and backgrounds drawn anew for each shard.
        attempts: photos that are tried for a pair.
        max_residual: largest distance of the fit from the landmarks, percent (NME).
        max_yaw_deg: largest yaw of a fit.
        min_cover: least share of the fitted face that the parser calls face.
        warp_mm: largest RMS length of the smooth random moves that bend a swapped head off its
            model (`_pairs_warp`); each draws its own between 0 and it.
    """

    seed: int = 0
    size: int = 128
    grid: int = 96
    box: int = 3
    near: int = 24_000
    band: float = 0.04
    photos: str = "renders"
    mode: Mode = "pairs"
    heads: HeadChoice = "lifemask"
    blend: Blend = "poisson"
    complete: Literal["mesh", "none"] = "mesh"
    inpaint: Literal["harmonic", "net"] = "harmonic"
    inpaint_weights: str = ""
    shard_size: int = 100
    bank_size: int = 24
    attempts: int = 16
    max_residual: float = 4.0
    max_yaw_deg: float = 75.0
    min_cover: float = 0.6
    warp_mm: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UserError: with the remedy.
        """
        choices: dict[str, tuple[str, ...]] = {
            "mode": ("pairs", "fitted_only", "renders_only"), "heads": ("lifemask", "ict", "both"),
            "blend": ("poisson", "paste"), "complete": ("mesh", "none"),
            "inpaint": ("harmonic", "net"),
        }  # fmt: skip
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                known = ", ".join(valid)
                raise UserError(f"unknown {name} {getattr(self, name)!r}; valid: {known}")
        for name, low, high in (
            ("size", 16, 1024), ("grid", 8, 512), ("shard_size", 1, 100_000),
            ("bank_size", 1, 1000), ("near", 10, 1_000_000), ("attempts", 1, 1000),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}; it lies in {low} to {high}")
        if not 0 <= self.warp_mm <= MOST_WARP_MM:
            raise UserError(f"warp_mm is {self.warp_mm}; it lies in 0 to {MOST_WARP_MM:g}")
        if self.warp_mm and self.mode == "fitted_only":
            raise UserError("warp_mm bends heads that are swapped in; mode fitted_only has none")
        if self.inpaint_weights and self.inpaint != "net":
            raise UserError("inpaint_weights are those of --inpaint net; give both or neither")
        if self.box < 1 or self.box % 2 == 0:
            raise UserError(f"box is {self.box} voxels; it needs a middle, so an odd number")

    @property
    def held_out(self) -> bool:
        """Whether the run's heads are never trained on."""
        return self.seed >= HELD_OUT_SEED

    @property
    def licence(self) -> str:
        """Licence tag of the pairs; networks that learn from them inherit it."""
        if self.mode == "renders_only" or self.photos == "renders":
            return "open"
        return "research only" if self.photos == "aflw21" else "that of the photos"


@dataclass(frozen=True)
class Pair:
    """A picture of a face and the surface it shows; frames: the module `pairs`.

    Attributes:
        image: (S, S, 3) uint8 sRGB, the pseudo photo.
        region: (S, S) uint8, ids of `types.REGION_NAMES`.
        normals: (S, S, 3) float32 of the solid's front, camera frame; 0 where the picture shows no
            face, or one without truth.
        depth: (S, S) float32 z of that front in the cube, NaN elsewhere.
        guide_depth: (S, S) float32 z of the head that PGN finds in the image, about its own
            `z_mid`; NaN off that head. guide_normals: (S, S, 3) float32, 0 there.
        points: (n, 3) int16 voxels near the surface, in random order.
        sdf: (n,) float16 distance there, half-crops, positive outside.
        fine: (n,) float16 `1000 (d - box_k(d))` there.
        uniform: (m, 3) float16 points anywhere in the cube; uniform_sdf: (m,) float16 their
            distances, cut at +-band.
        surface: (q, 3) float16 points on the front of the face; surface_normals: (q, 3) float16.
        rotation: (3, 3) model to camera frame; scale: px per mm; shift: (2,) px where the model's
            origin appears; z_mid: half-crops, see `Frame`.
        identity: (i,); expression: (e,) of the head that is the truth.
        person: number of the head; age: 0 to 1; detail_seed: of its relief, -1 for none.
        heads: its face model.
        source: number of the photo, -1 for none; residual: of the photo's fit, percent.
        rejected: how many photos were turned away before this one, by reason.
        warp_mm: how far the head is bent off its model, RMS, by `detail_seed`.
    """

    image: NDArray[np.uint8]
    region: NDArray[np.uint8]
    normals: NDArray[np.float32]
    depth: NDArray[np.float32]
    guide_depth: NDArray[np.float32]
    guide_normals: NDArray[np.float32]
    points: NDArray[np.int16]
    sdf: NDArray[np.float16]
    fine: NDArray[np.float16]
    uniform: NDArray[np.float16]
    uniform_sdf: NDArray[np.float16]
    surface: NDArray[np.float16]
    surface_normals: NDArray[np.float16]
    rotation: NDArray[np.float32]
    scale: float
    shift: NDArray[np.float32]
    z_mid: float
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    person: int
    age: float
    detail_seed: int
    heads: HeadName
    source: int
    residual: float
    rejected: Mapping[str, int]
    warp_mm: float = 0.0

    @property
    def size(self) -> int:
        """Side of the picture in px."""
        return len(self.image)


@dataclass(frozen=True)
class StoredPair:
    """A pair as a shard keeps it: depth in steps, normals in bytes, small things in `facts`."""

    image: NDArray[np.uint8]
    region: NDArray[np.uint8]
    normals: NDArray[np.int8]
    depth: NDArray[np.int16]
    guide_depth: NDArray[np.int16]
    guide_normals: NDArray[np.int8]
    points: NDArray[np.int16]
    sdf: NDArray[np.float16]
    fine: NDArray[np.float16]
    uniform: NDArray[np.float16]
    uniform_sdf: NDArray[np.float16]
    surface: NDArray[np.float16]
    surface_normals: NDArray[np.float16]
    facts: Mapping[str, Any]


MAPS = ("normals", "depth", "guide_depth", "guide_normals")
ARRAYS = ("points", "sdf", "fine", "uniform", "uniform_sdf", "surface", "surface_normals")
FACTS = tuple(
    f.name for f in fields(Pair) if f.name not in ("image", "region", *MAPS, *ARRAYS, "rejected")
)
SHAPES = {"points": (-1, 3), "uniform": (-1, 3), "surface": (-1, 3), "surface_normals": (-1, 3)}


def to_stored(pair: Pair) -> StoredPair:
    """A pair in the form that a shard keeps."""
    facts: dict[str, Any] = {name: getattr(pair, name) for name in FACTS}
    facts["rejected"] = dict(pair.rejected)
    return StoredPair(
        image=pair.image, region=pair.region, normals=_bytes(pair.normals),
        depth=_steps(pair.depth), guide_depth=_steps(pair.guide_depth),
        guide_normals=_bytes(pair.guide_normals), facts=facts,
        **{name: getattr(pair, name) for name in ARRAYS},
    )  # fmt: skip


def from_record(record: Record) -> Pair:
    """A pair from what a shard keeps.

    Raises:
        UserError: the record is none of a pair.
    """
    labels, maps = record.labels, record.maps
    try:
        arrays = {n: _typed(n, labels[n]) for n in ARRAYS}
        facts = {n: labels.get(f"facts/{n}", LATER[n]) if n in LATER else labels[f"facts/{n}"]
                 for n in FACTS}  # fmt: skip
        start = "facts/rejected/"
        rejected = {n[len(start) :]: int(v) for n, v in labels.items() if n.startswith(start)}
        return Pair(
            image=record.image, region=maps["region"], normals=_unit(maps["normals"]),
            depth=_depth(maps["depth"]), guide_depth=_depth(maps["guide_depth"]),
            guide_normals=_unit(maps["guide_normals"]), **arrays, **facts, rejected=rejected,
        )  # fmt: skip
    except KeyError as error:
        raise UserError(f"sample {record.key} is no pair ({error} is missing)") from error


def _typed(name: str, values: Any) -> NDArray:
    """An array of its own type: short ones were kept as text."""
    kind = np.int16 if name == "points" else np.float16
    return np.asarray(values).astype(kind).reshape(SHAPES.get(name, (-1,)))


def _bytes(normals: NDArray) -> NDArray[np.int8]:
    return np.rint(normals * NORMAL_STEPS).astype(np.int8)


def _unit(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    vectors = codes.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1)


def _steps(depth: NDArray) -> NDArray[np.int16]:
    steps = np.clip(np.rint(np.nan_to_num(depth) * DEPTH_STEPS), NO_DEPTH + 1, -NO_DEPTH - 1)
    return np.where(np.isfinite(depth), steps, NO_DEPTH).astype(np.int16)


def _depth(steps: NDArray[np.int16]) -> NDArray[np.float32]:
    depth = steps.astype(np.float32) / DEPTH_STEPS
    return np.where(steps == NO_DEPTH, np.float32(np.nan), depth)
