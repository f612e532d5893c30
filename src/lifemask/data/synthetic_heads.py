"""Held-out synthetic heads with full truth: lifemask's own test set, made where it is needed.

    python -m lifemask.data.synthetic_heads OUT --data DIR --heads 200 --views 1

writes a folder: `header.json`, `labels.npz`, and per image `images/NAME.png` (the photo),
`albedo/NAME.png` (true skin colour over the model's UVs, sRGB-coded) and `visible/NAME.png` (the
texels that the photo shows). Its people come from a seed that training never uses
(`synthetic.HELD_OUT_SEED`); a head keeps its identity over its views, everything else is drawn
anew. Truth and prediction share a face model where lifemask is scored: the numbers flatter it and
serve to compare versions and find faults, not to rank systems.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.data.npz import read_npz
from lifemask.facemodel.base import FaceModel
from lifemask.types import Camera, Lighting

FORMAT = "lifemask-synthetic-heads"
VERSION = 1
IMAGE_PX = 256
EXPAND = 1.5
ALBEDO_PX = 512
COMMAND = "python -m lifemask.data.synthetic_heads OUT --data DIR"

_ARRAYS = (
    "names", "person", "identity", "expression", "rotation", "translation", "scale", "center",
    "light_sh", "gain", "relight_sh", "flags",
)  # fmt: skip


@dataclass(frozen=True)
class HeadTruth:
    """Everything true about one image.

    Attributes:
        name: of the image.
        vertices_mm: (v, 3) as in the image, model frame.
        neutral_mm: (v, 3) the same person without expression.
        camera: to px of the image.
        lighting: light of the image without its key light, camera frame.
        relighting: the new light of the relight test, camera frame.
        albedo: (3, n, n) linear RGB over the model's UVs, row 0 is v = 1.
        visible: (n, n) texels of the skin that the image shows.
    """

    name: str
    vertices_mm: Float[Tensor, "v 3"]
    neutral_mm: Float[Tensor, "v 3"]
    camera: Camera
    lighting: Lighting
    relighting: Lighting
    albedo: Float[Tensor, "3 n n"]
    visible: Bool[Tensor, "n n"]


@dataclass(frozen=True)
class SyntheticHeads:
    """A folder of held-out heads; pictures and textures are read one at a time.

    Attributes:
        folder: where it lies.
        header: what `header.json` says.
        names: n images, "head-HHH-V".
        model: the face model of the truth.
        labels: arrays with one row per image, as written.
    """

    folder: Path
    header: dict[str, Any]
    names: tuple[str, ...]
    model: FaceModel
    labels: dict[str, ndarray]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """The photos."""
        return tuple(self.folder / "images" / f"{name}.png" for name in self.names)

    @property
    def person(self) -> ndarray:
        """(n,) number of the head in each image."""
        return self.labels["person"]

    @cached_property
    def boxes(self) -> Float[ndarray, "n 4"]:
        """(n, 4) x0, y0, x1, y1 of the nominal crops, edges in px: a centred square."""
        size, side = self.header["image_size"], self.header["image_size"] / self.header["expand"]
        low, high = (size - 1 - side) / 2, (size - 1 + side) / 2
        return np.tile([low, low, high, high], (len(self), 1))

    @torch.no_grad()
    def shapes(self, index: int) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v 3"]]:
        """Vertices (v, 3) with and without expression, mm, model frame."""
        identity = torch.from_numpy(self.labels["identity"][index])
        expression = torch.from_numpy(self.labels["expression"][index])
        return self.model(identity, expression), self.model(identity, torch.zeros_like(expression))

    def camera(self, index: int) -> Camera:
        """The camera of an image."""
        rows = {key: torch.from_numpy(self.labels[key][index]) for key in
                ("rotation", "translation", "center")}  # fmt: skip
        return Camera("pinhole", scale=torch.tensor(float(self.labels["scale"][index])), **rows)

    def truth(self, index: int) -> HeadTruth:
        """All truth of an image.

        Raises:
            UserError: a texture is missing or broken.
        """
        vertices, neutral = self.shapes(index)
        name = self.names[index]
        coded = torch.from_numpy(_read_png(self.folder / "albedo" / f"{name}.png"))
        shown = torch.from_numpy(_read_png(self.folder / "visible" / f"{name}.png"))
        light, new_light = (torch.from_numpy(self.labels[k][index]) for k in
                            ("light_sh", "relight_sh"))  # fmt: skip
        return HeadTruth(
            name,
            vertices,
            neutral,
            self.camera(index),
            Lighting(light),
            Lighting(new_light),
            _linear(coded),
            shown > 127,
        )


def load_synthetic_heads(folder: str | Path) -> SyntheticHeads:
    """Read a folder that this module's command wrote.

    Raises:
        UserError: no such set, an unfinished one, or one of another head model; the message names
            the command that makes it.
    """
    from lifemask.data.synthetic import model_fingerprint
    from lifemask.facemodel import load_face_model

    root = Path(folder)
    try:
        header = json.loads((root / "header.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no synthetic heads in {root}; make them: {COMMAND}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{root / 'header.json'} is not readable JSON: {error}") from error
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise UserError(f"{root} is not {FORMAT} version {VERSION}; make it again: {COMMAND}")
    model = load_face_model(header["face_model"])
    if model_fingerprint(model) != header["face_model_sha1"]:
        raise UserError(f"{root} was made with another head model; make it again: {COMMAND}")
    labels = read_npz(root / "labels.npz", _ARRAYS)
    return SyntheticHeads(root, header, tuple(str(n) for n in labels["names"]), model, labels)


def write_synthetic_heads(
    folder: str | Path,
    data: str | Path,
    heads: int = 200,
    views: int = 1,
    *,
    family: Literal["open", "research"] = "open",
    photo_skins: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render the test set; the same call gives the same pixels.

    Args:
        folder: created; the labels appear last and mark the set complete.
        data: folder with `skins/` and `hdri/`.
        heads: people.
        views: images of each, with their own expression, pose, light and clothes.
        family: of the material that the pictures are made of.
        photo_skins: as for `synthetic.create_generator`.
        progress: called with (images done, images).

    Raises:
        UserError: materials are missing, or the folder cannot be written.
    """
    from lifemask.data.synthetic import HELD_OUT_SEED, SyntheticConfig, create_generator

    config = SyntheticConfig(family, seed=HELD_OUT_SEED, size=IMAGE_PX, expand=EXPAND)
    generator = create_generator(config, Path(data), photo_skins=photo_skins)
    root = Path(folder)
    for part in ("images", "albedo", "visible"):
        (root / part).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for index, scene, banks in _scenes(generator, heads, views):
        name = f"head-{index // views:03d}-{index % views}"
        rows.append(_write_one(generator, scene, banks, root, name) | {"person": index // views})
        if progress:
            progress(len(rows), heads * views)
    labels = {key: np.stack([np.asarray(row[key]) for row in rows]) for key in _ARRAYS}
    _write_labels(root, labels, _header(generator, heads, views))
    return root


def _header(generator: Any, heads: int, views: int) -> dict[str, Any]:
    from lifemask.data.synthetic import model_fingerprint

    config, model = generator.config, generator.rig.model
    return {
        "format": FORMAT,
        "version": VERSION,
        "family": config.family,
        "licence": "open" if config.family == "open" else "research only",
        "seed": config.seed,
        "heads": heads,
        "views": views,
        "image_size": config.size,
        "expand": config.expand,
        "albedo_size": ALBEDO_PX,
        "face_model": model.name,
        "face_model_sha1": model_fingerprint(model),
    }


def _scenes(generator: Any, heads: int, views: int):
    """Index, scene and banks of each image: a person's identity is drawn once."""
    from lifemask.data._synthetic_draw import Draws, draw_scene
    from lifemask.data._synthetic_sample import random_face, random_identity

    model, rig, seed = generator.rig.model, generator.rig, generator.config.seed
    banks = generator.banks(0)
    for index in range(heads * views):
        person = np.random.default_rng([seed, 7, index // views])
        rng = np.random.default_rng([seed, 8, index])
        identity = random_identity(model.identity_size, person)
        face = random_face(model.expression_names, rng)
        with torch.no_grad():
            head = model(torch.from_numpy(identity), torch.from_numpy(face.expression))
            sets = [model.landmarks(head, name).numpy().astype(np.float32) for name in
                    (rig.label_set, rig.box_set, rig.anatomy_set)]  # fmt: skip
        yield index, draw_scene(
            generator, banks, Draws(rng, rng), 0, index, identity, face, head.numpy(), *sets
        ), banks  # fmt: skip


def _write_one(generator: Any, scene: Any, banks: Any, root: Path, name: str) -> dict[str, Any]:
    """Render and store one image; returns its row of labels."""
    from lifemask.data._synthetic_render import render_scene
    from lifemask.data._synthetic_truth import create_maps

    sample, shot = render_scene(generator, banks, scene)
    maps = create_maps(generator, banks, scene, shot)
    _write_png(root / "images" / f"{name}.png", sample.image)
    albedo = uv_albedo(generator.rig, banks.skins[scene.tone.skin], scene.tone, ALBEDO_PX)
    coded = np.round(_srgb(torch.from_numpy(albedo)).numpy() * 255).clip(0, 255).astype(np.uint8)
    _write_png(root / "albedo" / f"{name}.png", coded)
    shown = _shown_texels(generator.rig.model, scene, maps)
    _write_png(root / "visible" / f"{name}.png", shown.astype(np.uint8) * 255)
    camera = sample.camera
    return {
        "names": name,
        "identity": scene.identity,
        "expression": scene.expression,
        "rotation": camera.rotation.numpy(),
        "translation": camera.translation.numpy(),
        "scale": np.float32(camera.scale),
        "center": camera.center.numpy(),
        "light_sh": sample.sh,
        "gain": sample.gain,
        "relight_sh": _new_light(generator, scene.index),
        "flags": sample.flags,
    }


def uv_albedo(rig: Any, skin: ndarray, tone: Any, size: int) -> Float[ndarray, "n n 3"]:
    """Linear albedo (n, n, 3) over the whole UV square; 0 outside the skin's layout.

    Args:
        rig: layout of the generator's textures.
        skin: (rows, columns, 3) uint8 texture.
        tone: from texel value to linear colour.
        size: n.
    """
    colour = tone.albedo(skin)
    rows, columns = rig.texture_shape
    u0, v0, u1, v1 = rig.uv_box
    u = (np.arange(size) + 0.5) / size
    column = np.rint((u - u0) / (u1 - u0) * columns - 0.5).astype(int)
    row = np.rint((v1 - (1 - u)) / (v1 - v0) * rows - 0.5).astype(int)
    inside = ((row >= 0) & (row < rows))[:, None] & ((column >= 0) & (column < columns))
    picked = colour[np.clip(row, 0, rows - 1)[:, None], np.clip(column, 0, columns - 1)]
    return np.where(inside[..., None], picked, 0.0).astype(np.float32)


def _shown_texels(model: FaceModel, scene: Any, maps: Any) -> Bool[ndarray, "n n"]:
    """Texels (n, n) of the skin that the camera sees: not behind the head, props or dark glass."""
    from lifemask.graphics.uv import create_uv_atlas, unwrap

    topology = model.topology
    skin = topology.face_part == topology.part_names.index("skin")
    atlas = create_uv_atlas(
        topology.uvs, topology.faces_uv, topology.faces, ALBEDO_PX, face_mask=skin
    )
    clear = torch.from_numpy((maps.model & (maps.glass < 0.5)).astype(np.float32))
    seen = unwrap(clear[None].expand(3, -1, -1), torch.from_numpy(scene.head_mm),
                  scene.view.camera(), atlas)  # fmt: skip
    shown = (seen.visible & (seen.colors[:, 0] > 0.9)).float()
    return atlas.scatter(shown[:, None], gutter=False)[0].numpy() > 0


def _new_light(generator: Any, index: int) -> Float[ndarray, "9 3"]:
    """Light of the relight test: another environment, mean shading 1, drawn by the index."""
    from lifemask.data._synthetic_surroundings import draw_light
    from lifemask.graphics.lighting import with_mean_shading

    rng = np.random.default_rng([generator.config.seed, 9, index])
    light = draw_light(generator.surroundings, rng, None)
    return with_mean_shading(Lighting(torch.from_numpy(light.sh))).sh.numpy()


def _linear(coded: Tensor) -> Float[Tensor, "3 n n"]:
    from lifemask.graphics.lighting import srgb_to_linear

    return srgb_to_linear(coded.float() / 255).permute(2, 0, 1).contiguous()


def _srgb(linear: Tensor) -> Tensor:
    from lifemask.graphics.lighting import linear_to_srgb

    return linear_to_srgb(linear.clamp(0, 1))


def _write_png(path: Path, pixels: ndarray) -> None:
    from PIL import Image

    part = path.with_name(f".{path.name}.part")
    Image.fromarray(pixels).save(part, format="PNG")
    part.replace(path)


def _read_png(path: Path) -> ndarray:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(image)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}; make the set again: {COMMAND}") from error


def _write_labels(root: Path, labels: dict[str, ndarray], header: dict[str, Any]) -> None:
    """Store labels, then the header that marks the set complete; readers never see half."""
    part = root / ".labels.part"
    with part.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **labels)
    part.replace(root / "labels.npz")
    part = root / ".header.part"
    part.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    part.replace(root / "header.json")


def subset(data: SyntheticHeads, count: int) -> SyntheticHeads:
    """The first images of a set."""
    labels = {key: value[:count] for key, value in data.labels.items()}
    return replace(data, names=data.names[:count], labels=labels)


def main(arguments: list[str] | None = None) -> None:
    """Command line: render the held-out heads."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m lifemask.data.synthetic_heads", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="where the set goes")
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--heads", type=int, default=200, help="people")
    parser.add_argument("--views", type=int, default=1, help="images of each")
    parser.add_argument("--photo-skins", type=Path, help="npz; makes the set research only")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    write_synthetic_heads(
        args.folder, args.data, args.heads, args.views,
        family="open" if args.photo_skins is None else "research", photo_skins=args.photo_skins,
    )  # fmt: skip


if __name__ == "__main__":
    main()
