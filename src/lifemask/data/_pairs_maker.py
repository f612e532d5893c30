"""Makes pairs one by one: photo, fit, swapped head, picture, labels, guide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data import _pairs_compose as composing
from lifemask.data import _pairs_fit as fitting
from lifemask.data import _pairs_head as heading
from lifemask.data import _pairs_render as rendering
from lifemask.data import _synthetic_photo as photography
from lifemask.data import _synthetic_surroundings as around
from lifemask.data._pairs_blend import harmonic_fill
from lifemask.data._pairs_inpaint import Fill, create_fill
from lifemask.data._pairs_labels import create_labels
from lifemask.data._pairs_light import fit_light
from lifemask.data._pairs_masks import Mask
from lifemask.data._pairs_solid import middle_depth
from lifemask.data._pairs_source import CropPhotos, FolderPhotos, RenderedPhotos, Sources
from lifemask.data._pairs_types import Pair, PairsConfig
from lifemask.data._pairs_wardrobe import Cast, Wardrobe, create_wardrobe
from lifemask.data._synthetic_sample import FaceDraw, draw_view, random_face, random_identity
from lifemask.data.synthetic import Banks, Generator
from lifemask.types import FACE_CLASSES

MODELS: dict[str, tuple[heading.HeadName, ...]] = {
    "lifemask": ("lifemask",), "ict": ("lifemask", "ict"), "both": ("lifemask", "ict"),
}  # fmt: skip
"""Face models to load: rendered photos show the default head."""
CHOICES = {"lifemask": (0,), "ict": (1,), "both": (0, 1)}
"""Which of them are swapped in."""
MIN_TRUTH = 0.25
"""Least area of the true face that the picture shows, in areas of the fitted face."""


@dataclass(frozen=True)
class Outcome:
    """A pair's picture and truth before its labels.

    Attributes:
        image: (S, S, 3) uint8; region: (S, S) uint8.
        truth: (S, S) pixels that show the true face.
        placed: the true head.
        source: number of the photo, -1 for none; residual: of its fit, percent.
    """

    image: NDArray[np.uint8]
    region: NDArray[np.uint8]
    truth: Mask
    placed: heading.PlacedHead
    source: int = -1
    residual: float = 0.0


class PairsMaker:
    """Makes the pairs of a run; see `create_pairs_maker`.

    Attributes:
        config: settings of the run.
    """

    def __init__(
        self,
        config: PairsConfig,
        wardrobes: Sequence[Wardrobe],
        networks: fitting.Networks,
        sources: Sources,
        fill: Fill = harmonic_fill,
    ) -> None:
        self.config, self._fill = config, fill
        self._wardrobes, self._networks, self._sources = tuple(wardrobes), networks, sources

    def banks(self, shard: int) -> tuple[Banks, ...]:
        """Skins and backgrounds of a shard, of each face model."""
        return tuple(wardrobe.generator.banks(shard) for wardrobe in self._wardrobes)

    def make(self, banks: Sequence[Banks], indices: Sequence[int]) -> Iterator[Pair]:
        """Pairs by their number in the run, all of the shard whose banks these are.

        Raises:
            UserError: no photo of as many as may be tried can be used.
        """
        for index in indices:
            yield self._pair(banks, index)

    def _pair(self, banks: Sequence[Banks], index: int) -> Pair:
        rejected: dict[str, int] = dict.fromkeys(fitting.REASONS, 0)
        for attempt in range(self.config.attempts):
            found = self._attempt(banks, index, attempt)
            if isinstance(found, Outcome):
                return self._labelled(found, index, rejected)
            rejected[found] += 1
        told = ", ".join(f"{n} {reason}" for reason, n in rejected.items() if n)
        raise UserError(
            f"none of {self.config.attempts} photos for pair {index} can be used ({told}): "
            "give other --photos"
        )

    def _attempt(
        self, banks: Sequence[Banks], index: int, attempt: int
    ) -> Outcome | fitting.Reason:
        """A pair's picture and truth, or why its photo cannot be used."""
        config = self.config
        if config.mode == "renders_only":
            return self._rendered(banks, index)
        source = self._sources.draw(index, attempt, banks[0])
        if source is None:
            return "no face"
        fitted = fitting.fit_photo(self._networks, source, config.size)
        why = fitted.rejected(config.max_residual, config.max_yaw_deg, config.min_cover)
        if why is not None:
            return why
        if config.mode == "fitted_only":
            return self._as_fitted(fitted)
        outcome = self._swapped(banks, index, fitted)
        seen = outcome.truth.sum() >= MIN_TRUTH * fitted.maps.face.sum()
        return outcome if seen else "hidden"

    def _cast(self, banks: Sequence[Banks], rng: np.random.Generator) -> Cast:
        """A random person."""
        choice = CHOICES[self.config.heads]
        number = choice[int(rng.integers(len(choice)))]
        wardrobe, of = self._wardrobes[number], banks[number]
        identity = random_identity(wardrobe.kit.model.identity_size, rng)
        skin, seed = int(rng.integers(len(of.skins))), int(rng.integers(2**31))
        return Cast(wardrobe, of, identity, skin, seed)

    def _swapped(self, banks: Sequence[Banks], index: int, fitted: fitting.Fitted) -> Outcome:
        """Another head in the photo's pose, with its expression, in its light."""
        from lifemask.graphics.camera import project

        config, rng = self.config, np.random.default_rng([self.config.seed, 31, index])
        cast, geometry = self._cast(banks, rng), fitted.geometry
        kit, params = cast.wardrobe.kit, geometry.params
        assert params is not None and geometry.landmarks68_mm is not None
        of = cast.parameters(
            heading.same_expression(self._networks.pgn.model, kit.model, params.expression.numpy()),
            config.warp_mm,
        )
        head, seen = kit.head(of), project(geometry.landmarks68_mm, fitted.camera)
        camera = heading.stored_camera(heading.place_like(kit, head, fitted.camera, seen))
        placed = heading.place_head(kit, of, head, camera, config.size)
        found = fit_light(fitted, cast.wardrobe.tones)
        tone = rendering.toned(cast.tone(rng), found.tone)
        gaze = rendering.gaze_of(kit.model.expression_names, of.expression)
        complete = config.complete == "mesh"
        shot = cast.shoot(placed, tone, gaze, found.light, complete, rng)
        layers = composing.choose_layers(fitted, shot, cast.scalp)
        image = composing.compose(fitted, shot, layers, config.blend, self._fill)
        truth = layers.swapped & (layers.region < FACE_CLASSES)
        return Outcome(
            image, layers.region, truth, placed, fitted.source.index, round(fitted.residual, 6)
        )

    def _as_fitted(self, fitted: fitting.Fitted) -> Outcome:
        """The photo as it is, with its own fit, without relief, as truth."""
        params, kit = fitted.geometry.params, self._wardrobes[0].kit
        assert params is not None
        identity, expression = heading.stored(params.identity), heading.stored(params.expression)
        of = heading.HeadParameters(kit.name, identity, expression, 0.0, heading.NO_RELIEF)
        camera = heading.stored_camera(fitted.camera)
        placed = heading.place_head(kit, of, kit.head(of), camera, self.config.size)
        truth = composing.own_face(fitted) & fitted.maps.head
        return Outcome(
            fitted.image, fitted.region, truth, placed, fitted.source.index,
            round(fitted.residual, 6),
        )  # fmt: skip

    def _rendered(self, banks: Sequence[Banks], index: int) -> Outcome:
        """A head over a background in a light of its own."""
        config, rng = self.config, np.random.default_rng([self.config.seed, 32, index])
        cast = self._cast(banks, rng)
        kit, generator = cast.wardrobe.kit, cast.wardrobe.generator
        face = self._face(kit, rng)
        of = cast.parameters(face.expression, config.warp_mm)
        head = kit.head(of)
        box = generator.rig.landmarks(head, generator.rig.box_set)
        view = draw_view(box, face.angles_deg, True, config.size, fitting.EXPAND, rng)
        camera = heading.stored_camera(view.camera())
        placed = heading.place_head(kit, of, head, camera, config.size)
        light = around.draw_light(generator.surroundings, rng, None)
        complete = config.complete == "mesh"
        shot = cast.shoot(placed, cast.tone(rng), face.gaze_deg, light, complete, rng)
        image = self._photographed(shot, cast.banks, view.image_points(box), rng)
        region = composing.drawn_classes(shot, cast.scalp)
        return Outcome(image, region, region < FACE_CLASSES, placed)

    def _face(self, kit: heading.ModelKit, rng: np.random.Generator) -> FaceDraw:
        """A random expression and pose that is not turned too far."""
        while True:
            names, ranges = kit.model.expression_names, kit.model.expression_range
            face = random_face(names, rng, ranges)
            if abs(face.angles_deg[1]) <= self.config.max_yaw_deg:
                return face

    def _photographed(
        self, shot: rendering.Shot, banks: Banks, points: NDArray[np.float32], rng
    ) -> NDArray[np.uint8]:
        """A shot over a background, as a camera that meters at points (n, >= 2) px sees it."""
        size = self.config.size
        cut = around.draw_cut(len(banks.backgrounds.pictures), rng, size)
        behind = around.cut_out(banks.backgrounds, cut, size)
        linear = (shot.linear + (1 - shot.cover[..., None]) * behind).astype(np.float32)
        gain = photography.exposure_gain(photography.draw_exposure(rng), linear, points)
        return photography.photograph(linear, gain, photography.draw_faults(rng, size))

    def _labelled(self, found: Outcome, index: int, rejected: dict[str, int]) -> Pair:
        config, placed = self.config, found.placed
        depth, normals = placed.solid.front(config.size)
        truth = found.truth & np.isfinite(depth)
        depth = np.where(truth, depth, np.float32(np.nan))
        normals = np.where(truth[..., None], normals, np.float32(0))
        rng = np.random.default_rng([config.seed, 33, index])
        labels = create_labels(
            placed.solid, depth, normals, config.grid, config.box, config.near, rng, config.band
        )
        guide_depth, guide_normals = self._guide(found.image)
        of, camera = placed.parameters, placed.frame.camera
        return Pair(
            image=found.image, region=found.region, normals=normals, depth=depth,
            guide_depth=guide_depth, guide_normals=guide_normals, points=labels.points,
            sdf=labels.sdf, fine=labels.fine, uniform=labels.uniform,
            uniform_sdf=labels.uniform_sdf, surface=labels.surface,
            surface_normals=labels.surface_normals, rotation=camera.rotation.numpy(),
            scale=float(camera.scale), shift=camera.translation[:2].numpy(),
            z_mid=placed.frame.z_mid, identity=of.identity, expression=of.expression, person=index,
            age=of.age, detail_seed=of.detail_seed, heads=of.heads, source=found.source,
            residual=found.residual, rejected=rejected, warp_mm=of.warp_mm,
        )  # fmt: skip

    def _guide(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Depth in the cube and normals of the head that the parametric method finds in a crop."""
        size, model = len(image), self._networks.pgn.model
        middle, half = size / 2 - 0.5, size / fitting.EXPAND / 2
        box = (middle - half, middle - half, middle + half, middle + half)
        geometry, _ = fitting.fit_head(self._networks, image, box)
        maps = fitting.head_maps(model, geometry.vertices_mm, geometry.camera, size)
        z_mid = middle_depth(model, geometry.vertices_mm, geometry.camera, size)
        return (maps.depth * (2 / size) - z_mid).astype(np.float32), maps.normals


def create_sources(config: PairsConfig, data: Path, generator: Generator) -> Sources:
    """The photos of a run.

    Raises:
        UserError: they are not there.
    """
    if config.photos == "renders":
        return RenderedPhotos(generator, config.attempts)
    if config.photos == "aflw21":
        return CropPhotos(data / "aflw21", config.seed, config.held_out)
    folder = Path(config.photos)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; --photos is renders, aflw21, or a folder of pictures")
    return FolderPhotos(folder, config.seed)


def create_pairs_maker(config: PairsConfig, data: Path) -> PairsMaker:
    """Load models, skins and networks (a few seconds); torch is set to one thread.

    Args:
        config: settings of the run.
        data: folder with `skins/`, `hdri/`, and what the settings ask for: `aflw21/`, `ict/`.

    Raises:
        UserError: something is missing.
    """
    torch.set_num_threads(1)
    fill = create_fill(config)
    wardrobes = [create_wardrobe(name, config, data) for name in MODELS[config.heads]]
    sources = create_sources(config, data, wardrobes[0].generator)
    # what is for research anyway may be looked at by the networks that know photos best
    weights = "research" if config.licence == "research only" else "open"
    return PairsMaker(config, wardrobes, fitting.load_networks(weights), sources, fill)
