"""Batches of faces for the re-renderable texture as a function of the step number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.assets import UserError
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.methods._retexture_chart import OUTSIDE, mirrored
from lifemask.methods._retexture_types import RetextureBatch, RetextureInput
from lifemask.training._camera_faults import taken_by_camera
from lifemask.training._retexture_cache import RetextureCache, open_cache
from lifemask.training.crop_sources import licence_tag

X_ODD = (3, 4, 7)
"""Coefficients of light that change sign in a mirror: x, xy and xz of `sh_basis`."""


@dataclass(frozen=True)
class RetextureCorpus:
    """Caches by what their pictures are; each is drawn from in proportion to its heads.

    Attributes:
        renders: with truth.
        photos: without.
    """

    renders: tuple[RetextureCache, ...]
    photos: tuple[RetextureCache, ...] = ()


def load_corpus(
    folders: Sequence[str | Path],
    size: int,
    family: Literal["open", "research"] = "open",
    *,
    held_out: bool = False,
) -> RetextureCorpus:
    """Caches that `retexture_data` wrote, as far as they are complete.

    Args:
        folders: of the caches.
        size: side of the maps that batches are to have; it divides the caches'.
        family: whose weights are trained; "open" may not see photos.
        held_out: whether the faces are those reserved for tests, or those to train on.

    Raises:
        UserError: a cache is missing, unfinished, made for another head model, too small, not for
            this family or not of this part; or there are no renders to train on.
    """
    caches = [open_cache(folder) for folder in folders]
    fingerprint = _fingerprint()
    for cache in caches:
        _check(cache, size, family, held_out, fingerprint)
    renders = tuple(c for c in caches if c.source == "renders")
    photos = tuple(c for c in caches if c.source == "photos")
    if not renders and not held_out:
        raise UserError("training needs a cache of renders, which alone have a true albedo")
    return RetextureCorpus(renders, photos)


def _fingerprint() -> str:
    from lifemask.data.synthetic import model_fingerprint
    from lifemask.facemodel import load_face_model

    return model_fingerprint(load_face_model("lifemask"))


def _check(cache: RetextureCache, size: int, family: str, held_out: bool, fingerprint: str) -> None:
    header, folder = cache.header, cache.folder
    if header["face_model_sha1"] != fingerprint:
        raise UserError(f"{folder} was made with another head model; make it again")
    if cache.size % size:
        raise UserError(f"{folder} has maps of {cache.size}, which {size} does not divide")
    licence_tag(folder, header["licence"], family)
    if bool(header["held_out"]) != held_out:
        part = "held out for tests" if header["held_out"] else "for training"
        raise UserError(f"{folder} is {part}; give a cache of the other part")


class RetextureBatchMaker:
    """Batches of renders and photos; a batch does not depend on how it is shared out.

    Args:
        corpus: faces.
        batch: faces per step, over all processes.
        size: side of maps and pictures; it divides the caches'.
        seed: of everything random.
        photo_share: share of the faces that are photos, if the corpus has any.
        mirror: mirror half of the faces.
        holes: share of the faces of which some visible texels are hidden on purpose.
        faults: change exposure and white balance, blur, add noise and compress.
    """

    def __init__(
        self,
        corpus: RetextureCorpus,
        batch: int,
        size: int,
        seed: int = 0,
        photo_share: float = 0.0,
        *,
        mirror: bool = True,
        holes: float = 0.5,
        faults: bool = True,
    ) -> None:
        self.batch, self.size, self.seed = batch, size, seed
        self.mirror, self.holes, self.faults = mirror, holes, faults
        self.photo_share = photo_share if corpus.photos else 0.0
        if not corpus.renders:
            self.photo_share = 1.0
        self._sets = {"renders": corpus.renders, "photos": corpus.photos}

    def __call__(self, step: int, share: int = 0, shares: int = 1) -> RetextureBatch:
        """One process's share of the batch of a step."""
        count = self.batch // shares
        return join_rows([self._row(step, share * count + k) for k in range(count)])

    def _row(self, step: int, row: int) -> RetextureBatch:
        number, part = step * self.batch + row, self.photo_share
        photo = int((number + 1) * part) > int(number * part)
        rng = np.random.default_rng([self.seed, step, row])
        caches = self._sets["photos" if photo else "renders"]
        head = int(rng.integers(sum(len(c) for c in caches)))
        for cache in caches:
            if head < len(cache):
                break
            head -= len(cache)
        face = read_face(cache, head, int(rng.integers(cache.lights)), self.size)
        if self.faults:
            face = _taken_by_camera(face, rng)
        if rng.random() < self.holes:
            face = replace(face, visible=face.visible * (1 - _hole(rng, self.size)))
        if self.mirror and rng.random() < 0.5:
            face = mirrored_face(face)
        return face.batch(_noise(rng, self.size))


@dataclass(frozen=True)
class Face:
    """One picture of a head, decoded; fields as in `_retexture_cache.HeadRecord`.

    Attributes:
        photo: (3, s, s) sRGB in [0, 1].
        light: (9, 3); 0 if unknown.
        points: (2, n, n).
        places: (s, s, 2).
        visible: (n, n).
        mask: (s, s).
        normals: (3, n, n).
        albedo: (3, n, n) linear.
        truth: (n, n).
        lit: 1 where the light is known.
    """

    photo: Float[Tensor, "3 s s"]
    light: Float[Tensor, "9 3"]
    points: Float[Tensor, "2 n n"]
    places: Float[Tensor, "s s 2"]
    visible: Float[Tensor, "n n"]
    mask: Float[Tensor, "s s"]
    normals: Float[Tensor, "3 n n"]
    albedo: Float[Tensor, "3 n n"]
    truth: Float[Tensor, "n n"]
    lit: float

    def batch(self, noise: Float[Tensor, "3 n n"]) -> RetextureBatch:
        """A batch of this face alone; the texture is what the photo shows at the points."""
        grid = self.points.permute(1, 2, 0)[None]
        seen = functional.grid_sample(
            self.photo[None], grid, mode="bicubic", padding_mode="border", align_corners=False
        )
        texture = seen.clamp(0, 1) * (self.visible > 0)
        inputs = (texture, self.visible[None, None], self.normals[None], noise[None])
        return RetextureBatch(
            RetextureInput(*inputs), self.photo[None], self.places[None], self.mask[None, None],
            self.albedo[None], self.truth[None, None], self.light[None], torch.tensor([self.lit]),
        )  # fmt: skip


def read_face(cache: RetextureCache, head: int, picture: int, size: int) -> Face:
    """A picture of a cache, shrunk to `size` if the cache's are larger.

    Args:
        cache: from `open_cache`.
        head: number in the cache.
        picture: of the head.
        size: side of maps and picture; it divides the cache's.
    """
    read = {
        name: cache.field(name, head, picture if name in ("photo", "light") else None)
        for name in (f.name for f in fields(Face)) if name != "lit"
    }  # fmt: skip
    read["albedo"] = srgb_to_linear(read["albedo"])
    if (times := cache.size // size) > 1:
        read = {name: _shrunk(name, value, times) for name, value in read.items()}
    return Face(**read, lit=float(cache.source == "renders"))


def _shrunk(name: str, values: Tensor, times: int) -> Tensor:
    if name == "light":
        return values
    if name == "places":
        whole = _pooled((values[..., 0] < OUTSIDE - 0.5).float()[None], times)[0] == 1
        moved = _pooled(values.permute(2, 0, 1), times).permute(1, 2, 0)
        return torch.where(whole[..., None], moved, OUTSIDE)
    if values.ndim == 2:
        return _pooled(values[None], times)[0]
    small = _pooled(values, times)
    return functional.normalize(small, dim=0) if name == "normals" else small


def _pooled(values: Float[Tensor, "c h w"], times: int) -> Float[Tensor, "c h2 w2"]:
    return functional.avg_pool2d(values[None], times)[0]


def mirrored_face(face: Face) -> Face:
    """The face, its picture and its light in a mirror; twice is the same face."""
    across = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    places = face.places.flip(1)
    outside = places[..., :1] > OUTSIDE - 0.5
    places = torch.where(outside, places, places * torch.tensor([-1.0, 1.0]))
    light = face.light.clone()
    light[list(X_ODD)] *= -1
    return replace(
        face,
        photo=face.photo.flip(-1),
        light=light,
        points=mirrored(face.points) * across[:2],
        places=places,
        visible=mirrored(face.visible),
        mask=face.mask.flip(-1),
        normals=mirrored(face.normals) * across,
        albedo=mirrored(face.albedo),
        truth=mirrored(face.truth),
    )


def _taken_by_camera(face: Face, rng: np.random.Generator) -> Face:
    """The picture as another camera takes it.

    Exposure and white balance change the light; a tone curve is of no light, and the truth stays.
    """
    photo, gain = taken_by_camera(face.photo, rng)
    return replace(face, photo=photo, light=face.light * gain)


def _hole(rng: np.random.Generator, size: int) -> Float[Tensor, "n n"]:
    """1 where texels are hidden: one side of the face, or one to three polygons."""
    from skimage.draw import polygon

    hole = np.zeros((size, size), np.float32)
    if rng.random() < 0.4:
        angle, offset = rng.normal(0, 0.35), rng.uniform(-0.35, 0.35)
        y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
        side = rng.choice([-1.0, 1.0]) * (x * np.cos(angle) + y * np.sin(angle) - offset)
        hole[side > 0] = 1
        return torch.from_numpy(hole)
    for _ in range(rng.integers(1, 4)):
        corners = int(rng.integers(3, 8))
        around = np.sort(rng.uniform(0, 2 * np.pi, corners))
        reach = rng.uniform(0.05, 0.3) * rng.uniform(0.5, 1.2, corners)
        middle = rng.uniform(0.1, 0.9, 2)
        rows = (middle[0] + reach * np.sin(around)) * size
        columns = (middle[1] + reach * np.cos(around)) * size
        hole[polygon(rows, columns, hole.shape)] = 1
    return torch.from_numpy(hole)


def _noise(rng: np.random.Generator, size: int) -> Float[Tensor, "3 n n"]:
    return torch.from_numpy(rng.standard_normal((3, size, size), dtype=np.float32))


def join_rows(rows: Sequence[RetextureBatch]) -> RetextureBatch:
    """Batches one after the other as one."""
    seen = RetextureInput(
        *(torch.cat(parts) for parts in zip(*(r.seen for r in rows), strict=True))
    )
    names = [f.name for f in fields(RetextureBatch) if f.name != "seen"]
    return RetextureBatch(seen, *(torch.cat([getattr(r, n) for r in rows]) for n in names))
