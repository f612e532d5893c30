"""A photo becomes a folder of files that the viewer shows and the user downloads, step by step."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from lifemask.apps.web.lights import photo_light
from lifemask.export import animated_scene
from lifemask.faces.choice import usable_faces
from lifemask.graphics.meshio import MeshScene, encode_image, write_atomic, write_glb
from lifemask.graphics.meshio.scene import split_seams
from lifemask.head import Head
from lifemask.pipeline import Pipeline
from lifemask.preview import frame_in_photo, preview
from lifemask.record import params_record, record_text

PHOTO_SIDE_PX = 1024
PHOTO_ROOM = 1.25
"""How much more of the photo the viewer shows than the head's own frame."""
VERTEX_NUMBERS = 10
"""Per vertex of the GLB in `vertices.bin`: shadowed transfer (9), expected error in mm or -1."""
GLB, VERTICES, LIGHT, VIEW, PHOTO = "head.glb", "vertices.bin", "photo.light", "view.json", "photo.jpg"  # noqa: E501  # fmt: skip
TEXTURES, PARAMS, PREVIEW = "textures.zip", "params.json", "preview.png"
DOWNLOADS = (GLB, TEXTURES, PARAMS, PREVIEW)

Rgb = UInt8[np.ndarray, "h w 3"]
Steps = Iterator[tuple[float, str]]
"""Share of the work that is done, in [0, 1], and what is being done."""


@dataclass
class Made:
    """A head on its way through `steps`.

    Attributes:
        head: set once the photo has been reconstructed.
        scene: what the GLB holds.
    """

    head: Head | None = field(default=None)
    scene: MeshScene | None = field(default=None)


def show_steps(
    pipeline: Pipeline, photo: Rgb, folder: Path, label: str, made: Made | None = None
) -> Steps:
    """Reconstruct a photo and write what the viewer needs into a folder.

    Args:
        pipeline: with the method.
        photo: (H, W, 3) uint8 RGB.
        folder: there already.
        label: what the viewer calls the head.
        made: filled as soon as the parts are there, for `download_steps`.

    Raises:
        UserError: no usable face, missing weights, ...; one line, with the remedy.
    """
    made = made if made is not None else Made()
    yield 0.0, "Looking for a face"
    face = usable_faces(pipeline.find_faces(photo), photo)[0]
    yield 0.1, "Finding pose and shape"
    seen = pipeline.look(photo, face)
    geometry = pipeline.find_geometry(seen)
    yield 0.3, "Matching the photo, taking its light off the skin"
    head = pipeline.finish(seen, geometry)
    yield 0.7, "Writing the head"
    scene = animated_scene(head)
    made.head, made.scene = head, scene
    write_glb(scene, folder / GLB)
    yield 0.9, "Casting shadows"
    write_atomic(folder / VERTICES, vertex_numbers(head, scene).tobytes())
    if head.appearance is not None:
        write_atomic(folder / LIGHT, photo_light(head.appearance.lighting))
    view = view_record(head, label) | write_photo(head, photo, folder)
    write_atomic(folder / VIEW, json.dumps(view, allow_nan=False).encode())


def download_steps(made: Made, photo: Rgb, folder: Path, name: str) -> Steps:
    """Write the other files that the user may want: textures, numbers, a preview sheet.

    Args:
        made: from `show_steps`, finished.
        photo: the same.
        folder: the same.
        name: file name of the photo, for the record.
    """
    head, scene = made.head, made.scene
    assert head is not None and scene is not None
    yield 0.0, "Packing textures and numbers"
    write_atomic(folder / TEXTURES, textures_zip(head, scene))
    record = params_record([head], name, [list(DOWNLOADS)])
    write_atomic(folder / PARAMS, record_text(record).encode())
    yield 0.3, "Drawing the preview sheet"
    sheet = io.BytesIO()
    preview(head, photo, name).save(sheet, "PNG")
    write_atomic(folder / PREVIEW, sheet.getvalue())


def vertex_numbers(head: Head, scene: MeshScene) -> Float32[np.ndarray, "n 10"]:
    """What the viewer needs of each vertex beyond the GLB, in the GLB's order, little-endian."""
    count = len(head.geometry.vertices_mm)
    rows = np.full((count, VERTEX_NUMBERS), -1, "<f4")
    rows[:, :9] = head.transfer.cpu().numpy()
    rows[:, 9] = doubt_mm(head)
    ids = [split_seams(p.faces, p.faces_uv)[0] for p in scene.primitives]
    return np.ascontiguousarray(rows[np.concatenate(ids)])


def doubt_mm(head: Head) -> Float32[np.ndarray, " v"]:
    """Expected error of each vertex in mm; -1 where the method tells none."""
    doubt_px, camera = head.geometry.uncertainty_px, head.geometry.camera
    if doubt_px is None or camera.model != "orthographic":
        return np.full(len(head.geometry.vertices_mm), -1, np.float32)
    return torch.nan_to_num(doubt_px / camera.scale, nan=-1.0).float().cpu().numpy()


def view_record(head: Head, label: str) -> dict[str, Any]:
    """What the viewer tells about a head; plain numbers."""
    doubt = doubt_mm(head)
    known = doubt[doubt >= 0]
    return {
        "label": label,
        "method": head.method.name if head.method else "",
        "weights": head.weights,
        "pose_deg": {name: round(value, 1) for name, value in head.pose_deg.items()},
        "doubt_mm": [round(float(v), 2) for v in np.percentile(known, (50, 90))]
        if len(known)
        else None,
        "warnings": list(head.warnings),
        "downloads": list(DOWNLOADS),
    }


def write_photo(head: Head, photo: Rgb, folder: Path) -> dict[str, Any]:
    """Write the photo around the head as JPEG, and say how the head lies in it.

    Returns:
        Its size, the camera and the 68 landmarks in its px; an empty dict for other cameras than
        scaled orthography.
    """
    from PIL import Image

    camera = head.geometry.camera
    if camera.model != "orthographic":
        return {}
    height, width = photo.shape[:2]
    (u, v), side = frame_in_photo(head)
    half = side * PHOTO_ROOM / 2
    x0, x1 = max(0, round(u - half)), min(width, round(u + half) + 1)
    y0, y1 = max(0, round(v - half)), min(height, round(v + half) + 1)
    if x1 - x0 < 16 or y1 - y0 < 16:
        x0, y0, x1, y1 = 0, 0, width, height
    scale = min(1.0, PHOTO_SIDE_PX / max(x1 - x0, y1 - y0))
    size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
    cut = Image.fromarray(photo[y0:y1, x0:x1]).resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    cut.save(file, "JPEG", quality=90)
    write_atomic(folder / PHOTO, file.getvalue())
    origin = np.array([x0 - 0.5, y0 - 0.5])  # edges to edges, so that half pixels stay right

    def moved(points: np.ndarray) -> list:
        return np.round((points - origin) * scale - 0.5, 3).tolist()

    points = head.geometry.landmarks68_mm
    return {
        "photo": {"file": PHOTO, "width": size[0], "height": size[1]},
        "camera": {
            "rotation": camera.rotation.tolist(),
            "translation_px": moved(camera.translation[:2].numpy()),
            "scale_px_per_mm": float(camera.scale) * scale,
        },
        "landmarks68_px": None if points is None else moved(head.landmarks68_px),
    }


def textures_zip(head: Head, scene: MeshScene) -> bytes:
    """The textures of all materials as PNG files in one archive."""
    from lifemask.methods.surface_maps import DISPLACEMENT_ENDING, displacement_pixels

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:  # PNG is packed already

        def add(name: str, pixels: np.ndarray) -> None:
            archive.writestr(name, encode_image(np.ascontiguousarray(pixels), "png"))

        for primitive in scene.primitives:
            material = primitive.material
            if material is None:
                continue
            for ending, pixels in (
                ("", material.texture),
                ("_normal", material.normal_texture),
                ("_roughness", material.roughness_texture),
            ):
                if pixels is not None:
                    add(f"{material.name}{ending}.png", pixels)
        if head.geometry.detail is not None:
            heights = displacement_pixels(head.geometry.detail.displacement_mm)
            add("head" + DISPLACEMENT_ENDING, heights)
    return packed.getvalue()


def shared_steps(steps: Steps, begin: float, end: float, say: Callable[[str], str]) -> Steps:
    """Steps as a part of a longer work: their shares squeezed into [begin, end], texts changed."""
    for share, text in steps:
        yield begin + (end - begin) * share, say(text)
