"""Labelled face renders for training: a deterministic generator and its cache of shards.

`python -m lifemask.data.synthetic OUT --data DIR --count 40000` writes the cache; see
`docs/synthetic.md` for its layout and for what is drawn at random.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data._synthetic_cache import (
    FORMAT_VERSION,
    model_fingerprint,
    write_cache,
    write_header,
    write_shard,
)

if TYPE_CHECKING:
    from lifemask.data._synthetic_masks import SkinMasks
    from lifemask.data._synthetic_parts import Borrowed
    from lifemask.data._synthetic_props import PropKit
    from lifemask.data._synthetic_rig import HeadRig
    from lifemask.data._synthetic_scene import Scene, View
    from lifemask.data._synthetic_surroundings import Backgrounds, Surroundings
    from lifemask.data._synthetic_truth import LandmarkTruth, Maps
    from lifemask.facemodel.base import FaceModel
    from lifemask.types import Camera, Lighting

HELD_OUT_SEED = 900_000_000
"""Runs with this seed or a larger one are test material: their people are never trained on."""
__all__ = [
    "FORMAT_VERSION", "HELD_OUT_SEED", "Banks", "Generator", "Sample", "SyntheticConfig",
    "create_generator", "model_fingerprint", "render_samples", "write_cache", "write_header",
    "write_shard",
]  # fmt: skip
Family = Literal["open", "research"]
CameraChoice = Literal["perspective", "orthographic", "both"]
TruthLevel = Literal["labels", "maps"]


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of a run; everything an image shows follows from them and its index.

    Attributes:
        family: "open" (CC0 material only) or "research" (textures and pictures from photos too).
        seed: of the run; below `HELD_OUT_SEED` for whatever is trained on.
        size: image side in px.
        expand: image side over the side of the nominal (3DDFA) crop.
        supersample: samples per pixel and axis.
        shard_size: images per shard.
        bank_size: skins and backgrounds drawn anew for each shard.
        camera: "perspective", scaled "orthographic", or "both" in equal parts.
        frames: images in a row that show one person: the same identity, skin, hair, beard, hat
            and glasses in other poses, expressions, places and light. Divides `shard_size`.
        lids: share of the faces whose lids are drawn anew, evenly from open to shut; of the
            others about one in fifty has shut eyes.

    Raises:
        UserError: `frames` is not positive or does not divide `shard_size`, or `lids` is no share.
    """

    family: Family = "open"
    seed: int = 0
    size: int = 128
    expand: float = 1.25
    supersample: int = 2
    shard_size: int = 1000
    bank_size: int = 60
    camera: CameraChoice = "perspective"
    frames: int = 1
    lids: float = 0.0

    def __post_init__(self) -> None:
        """Refuse people whose images would lie in two shards, and shares that are none."""
        if not 0 <= self.lids <= 1:
            raise UserError(f"lids is {self.lids:g}; it is a share of the faces, from 0 to 1")
        if self.frames < 1:
            raise UserError(f"frames is {self.frames}; a person has at least one image")
        if self.shard_size % self.frames:
            raise UserError(f"shard size {self.shard_size} is no multiple of {self.frames} frames")

    @property
    def nominal_side_px(self) -> float:
        """Side of the nominal crop, centred in the image, in px."""
        return self.size / self.expand

    @property
    def held_out(self) -> bool:
        """Whether the run's people are reserved for tests."""
        return self.seed >= HELD_OUT_SEED


@dataclass(frozen=True)
class Sample:
    """One labelled render.

    Attributes:
        image: (size, size, 3) uint8 sRGB.
        points: (n, 3) landmarks of the rig's `label_set`, (u, v, w) in image px.
        visible: (n,) the landmark's surface is seen: not behind the head, hair or an occluder.
        view: the camera.
        identity: (i,); expression: (e,) coefficients of the face model.
        gaze_deg: (2, 2) pitch and yaw of the eye at +x and the eye at -x, in the head's frame.
        age: of skin and hair, in [0, 1].
        flags: (3,) glasses, beard, occluder.
        region: (size, size) uint8, index into `types.REGION_NAMES`.
        glasses: (size, size) pixels that show a frame of glasses or dark glass, whatever their
            region is.
        sh: (9, 3) radiance coefficients of the light (`types.Lighting`), without the key light.
        key_direction: (3,) unit, camera frame; key_colour: (3,) irradiance / pi, 0 without a key.
        gain: (3,) exposure and white balance: linear radiance times this enters the camera.
        landmarks: further sets by name, if asked for.
        maps: truth per pixel, if asked for.
        person: number of the person in the run.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    visible: NDArray[np.bool_]
    view: View
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    gaze_deg: NDArray[np.float32]
    age: float
    flags: NDArray[np.bool_]
    region: NDArray[np.uint8]
    glasses: NDArray[np.bool_]
    sh: NDArray[np.float32]
    key_direction: NDArray[np.float32]
    key_colour: NDArray[np.float32]
    gain: NDArray[np.float32]
    landmarks: Mapping[str, LandmarkTruth] = field(default_factory=dict)
    maps: Maps | None = None
    person: int = 0

    @property
    def rotation(self) -> NDArray[np.float32]:
        """(3, 3) model to camera frame."""
        return self.view.rotation

    @property
    def translation_mm(self) -> NDArray[np.float32]:
        """(3,) T of a pinhole camera, zeros of an orthographic one."""
        return self.view.translation_mm * np.float32(not self.view.orthographic)

    @property
    def f_px(self) -> float:
        """Focal length of a pinhole camera in px, 0 of an orthographic one."""
        return 0.0 if self.view.orthographic else self.view.scale

    @property
    def center_px(self) -> NDArray[np.float32]:
        """(2,) principal point, or where the model's origin appears to an orthographic camera."""
        return self.view.center_px.astype(np.float32)

    @property
    def camera(self) -> Camera:
        """The camera as the rest of lifemask knows it."""
        return self.view.camera()

    @property
    def lighting(self) -> Lighting:
        """The light without its key as the rest of lifemask knows it."""
        import torch

        from lifemask.types import Lighting

        return Lighting(torch.from_numpy(self.sh))


@dataclass(frozen=True)
class Banks:
    """What a shard draws from.

    Attributes:
        skins: (n, rows, columns, 3) uint8 sRGB.
        marks: (n, 2, rows, columns) uint8, above 127 where the skin shows a brow, and lips.
        skin_freedom: (n,) how far the tone may be moved, see `random_skin_tone`.
        skin_age: (n,) in [0, 1].
        scalp_hair: (n,) the skin's own texture shows hair on the skull.
        backgrounds: pictures behind the heads.
    """

    skins: NDArray[np.uint8]
    marks: NDArray[np.uint8]
    skin_freedom: NDArray[np.float32]
    skin_age: NDArray[np.float32]
    scalp_hair: NDArray[np.bool_]
    backgrounds: Backgrounds


@dataclass(frozen=True)
class Generator:
    """Everything prepared once: call `render` for single images, `write_cache` for many."""

    config: SyntheticConfig
    rig: HeadRig
    props: PropKit
    masks: SkinMasks
    texel_region: NDArray[np.uint8]
    skins: NDArray[np.float32]
    surroundings: Surroundings
    photo_skins: NDArray[np.uint8] | None = None
    borrowed: Borrowed | None = None
    noise: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))

    def banks(self, shard: int) -> Banks:
        """Skins and backgrounds of one shard, from the run's seed and the shard's number."""
        from lifemask.data._synthetic_regions import scalp_is_hair
        from lifemask.data._synthetic_skins import vary_skin
        from lifemask.data._synthetic_surroundings import background_bank

        rng = np.random.default_rng([self.config.seed, 1, shard])
        skins, freedom, ages = [], [], []
        for _ in range(self.config.bank_size):
            age = float(rng.beta(1.1, 1.4))
            if self.photo_skins is not None and rng.random() < 0.75:
                base = self.photo_skins[rng.integers(len(self.photo_skins))][None]
                base = _grow(
                    base, self.borrowed.shape if self.borrowed else self.masks.lip_depth.shape
                )
                base = self.borrowed.dress(base) if self.borrowed else base
                skins.append(vary_skin(base, self.masks, rng, age, strength=0.25))
                freedom.append(0.5)
            else:
                skins.append(vary_skin(self.skins, self.masks, rng, age))
                freedom.append(1.0)
            ages.append(age)
        backgrounds = background_bank(self.surroundings, rng, self.config.bank_size)
        textures = np.stack([skin.srgb for skin in skins])
        hair = [scalp_is_hair(s, self.texel_region, self.rig.cheek_texels) for s in textures]
        return Banks(
            textures, np.stack([skin.marks for skin in skins]), np.array(freedom, np.float32),
            np.array(ages, np.float32), np.array(hair), backgrounds,
        )  # fmt: skip

    def scenes(self, indices: Sequence[int]) -> Iterator[tuple[Scene, Banks]]:
        """Drawn scenes by their number in the run, shard by shard, with the banks they use."""
        from lifemask.data._synthetic_draw import draw_scenes

        for shard, chosen in self._by_shard(indices):
            banks = self.banks(shard)
            for scene in draw_scenes(self, banks, shard, chosen):
                yield scene, banks

    def render(
        self, indices: Sequence[int], truth: TruthLevel = "labels", sets: Sequence[str] = ()
    ) -> list[Sample]:
        """Images by their number in the run, shard by shard.

        Equal for equal settings and index, up to the rounding of batched matrix products; the
        same call gives the same bytes.

        Args:
            indices: of the images.
            truth: "maps" adds `Sample.maps`.
            sets: landmark sets to add as `Sample.landmarks`; "vertices" is the whole mesh.

        Raises:
            UserError: the face model has no such landmark set.
        """
        samples = []
        for shard, chosen in self._by_shard(indices):
            samples += list(render_samples(self, self.banks(shard), chosen, truth, sets))
        return samples

    def _by_shard(self, indices: Sequence[int]) -> list[tuple[int, list[int]]]:
        size = self.config.shard_size
        shards = sorted({int(i) // size for i in indices})
        return [(s, [int(i) for i in indices if int(i) // size == s]) for s in shards]


def _grow(textures: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Textures (n, h, w, 3) uint8 resized to `shape`, float in [0, 1]."""
    from PIL import Image

    size = (shape[1], shape[0])
    grown = [
        np.asarray(Image.fromarray(t).resize(size, Image.Resampling.BILINEAR)) for t in textures
    ]
    return (np.stack(grown) / 255).astype(np.float32)


def create_generator(
    config: SyntheticConfig,
    data: Path,
    model: FaceModel | None = None,
    photo_skins: Path | None = None,
) -> Generator:
    """Load the CC0 skins and environments and prepare the head.

    Args:
        config: settings of the run.
        data: folder with `skins/` (jpg) and `hdri/` (exr).
        model: any face model with 68 landmarks; None loads the default one.
        photo_skins: npz with `textures` (n, h, w, 3) and `photos` (n, s, s, 3), uint8, written by
            `tools/unwrap_photo_textures.py`; required by, and only allowed for, "research".

    Raises:
        UserError: `photo_skins` does not fit the family, skins or environments are missing, or
            the face model has no landmarks that the generator can use.
    """
    from lifemask.data._synthetic_masks import create_masks
    from lifemask.data._synthetic_parts import borrow_texels, default_rig
    from lifemask.data._synthetic_props import create_props
    from lifemask.data._synthetic_regions import texel_regions
    from lifemask.data._synthetic_rig import create_rig
    from lifemask.data._synthetic_skins import load_skins
    from lifemask.data._synthetic_surroundings import Surroundings, load_environments

    if (config.family == "research") != (photo_skins is not None):
        raise UserError("photo textures belong to the research family, and it needs them")
    if model is None:
        from lifemask.facemodel import load_face_model

        model = load_face_model("lifemask")
    rig = create_rig(model)
    props = create_props(rig)
    textures = photos = None
    if photo_skins is not None:
        with np.load(photo_skins) as archive:
            textures, photos = archive["textures"], archive["photos"]
    noise = np.random.default_rng([config.seed, 2]).random(1009).astype(np.float32)
    masks = create_masks(rig, props.beards)
    source = rig if rig.native else default_rig()
    borrowed = None if rig.native else borrow_texels(rig, source)
    skins = load_skins(data / "skins", source)
    surroundings = Surroundings(load_environments(data / "hdri"), photos)
    return Generator(
        config, rig, props, masks, texel_regions(rig, masks),
        borrowed.dress(skins) if borrowed else skins, surroundings, textures, borrowed, noise,
    )  # fmt: skip


def render_samples(
    generator: Generator,
    banks: Banks,
    indices: Sequence[int],
    truth: TruthLevel = "labels",
    sets: Sequence[str] = (),
) -> Iterator[Sample]:
    """Yield the samples of `indices`, all of one shard, in order, with the banks of that shard.

    Args:
        generator: decides every image.
        banks: of the shard.
        indices: of the images in the run.
        truth: "maps" adds truth per pixel.
        sets: landmark sets to add.

    Raises:
        UserError: the face model has no such landmark set.
    """
    from dataclasses import replace

    from lifemask.data._synthetic_draw import draw_scenes
    from lifemask.data._synthetic_render import render_scene
    from lifemask.data._synthetic_truth import create_maps, landmark_truth

    shard = indices[0] // generator.config.shard_size if indices else 0
    for scene in draw_scenes(generator, banks, shard, indices):
        sample, shot = render_scene(generator, banks, scene)
        if sets:
            sample = replace(sample, landmarks=landmark_truth(generator, scene, shot, sets))
        if truth == "maps":
            sample = replace(sample, maps=create_maps(generator, banks, scene, shot))
        yield sample


def main(arguments: list[str] | None = None) -> None:
    """Command line: write a cache of renders, resuming where a run stopped."""
    import argparse

    import torch

    parser = argparse.ArgumentParser(prog="python -m lifemask.data.synthetic", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the cache goes")
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--count", type=int, default=40_000, help="images in the cache")
    parser.add_argument("--seed", type=int, default=0, help="from 900000000 on: tests only")
    parser.add_argument("--camera", choices=get_args(CameraChoice), default="perspective")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1, help="images in a row of one person")
    parser.add_argument("--photo-skins", type=Path, help="npz; makes the cache research only")
    parser.add_argument("--part", default="0/1", help="I/N: make every N-th shard, from the I-th")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    family: Family = "open" if args.photo_skins is None else "research"
    config = SyntheticConfig(
        family, args.seed, shard_size=args.shard_size, camera=args.camera, frames=args.frames
    )
    first, parts = (int(x) for x in args.part.split("/"))
    generator = create_generator(config, args.data, photo_skins=args.photo_skins)
    write_cache(generator, args.folder, args.count, (first, parts))


if __name__ == "__main__":
    main()
