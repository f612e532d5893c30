"""One picture that tells whether a reconstruction is good: photo, fit, shape, turned and relit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.facemodel.detail import displaced
from lifemask.faces.crop import crop_square
from lifemask.graphics.camera import camera_for_crop, project, screen_depth
from lifemask.graphics.lighting import studio_light
from lifemask.graphics.rasterize import rasterize
from lifemask.head import FRAME_FILL, Head, render_head, to_picture, view_camera
from lifemask.types import Camera

if TYPE_CHECKING:
    from PIL import Image

PANEL_PX = 352
COLUMNS, MAX_SINGLE_ROW = 4, 5
GAP_PX, MARGIN_PX, HEADER_PX, LABEL_PX, FOOTER_PX = 16, 32, 84, 36, 60
CORNER_PX = 10
CANVAS = (20, 21, 24)
PANEL = (34, 36, 41)
TEXT, MUTED, ACCENT, AMBER = (236, 238, 242), (146, 151, 161), (116, 206, 222), (236, 178, 88)
THREE_QUARTER_DEG = 38.0
MOST_LINES = 60_000
"""A mesh of more faces is not drawn as a wireframe."""
RELIGHTS = ("key", "sunset")

Rgb = UInt8[np.ndarray, "h w 3"]
Panel = tuple[str, Callable[[], "Image.Image"]]


def preview(head: Head, photo: Rgb | None = None, title: str = "") -> Image.Image:
    """The preview of a head.

    Args:
        head: what to show; without appearance it is shown as clay.
        photo: (H, W, 3) uint8 RGB; None leaves out the panels that need it.
        title: e.g. the photo's file name.

    Returns:
        Panels of one face scale on a dark ground: photo, the mesh over it, clay in the photo's
        pose, then textured from the front, from both sides, and in two other lights.
    """
    shape = fine_clay(head)
    panels = [*_photo_panels(head, shape, photo), *_view_panels(head, shape)]
    pictures = [(label, draw()) for label, draw in panels]
    return _sheet(pictures, title or "head", _right_note(head), _footer(head), head.warnings)


def frame_in_photo(head: Head) -> tuple[tuple[float, float], float]:
    """The square of the photo in which the head is as large as in the views of `view_camera`.

    Returns:
        (centre (u, v), side) in photo px.
    """
    vertices, camera = head.geometry.vertices_mm, head.geometry.camera
    low, high = vertices.amin(0), vertices.amax(0)
    middle = (low + high) / 2
    u, v = project(middle[None], camera)[0, :2].tolist()
    return (u, v), _px_per_mm(camera, middle) * float((high - low).max()) / FRAME_FILL


def _px_per_mm(camera: Camera, point_mm: Float[Tensor, "3"]) -> float:
    """Scale of the photo at a point: s, or f over the distance."""
    if camera.model == "orthographic":
        return float(camera.scale)
    z = (camera.rotation @ point_mm + camera.translation)[2]
    return float(camera.scale / -z)


def _photo_panels(head: Head, shape: Head, photo: Rgb | None) -> list[Panel]:
    if photo is None:
        return []
    center, side = frame_in_photo(head)
    cut = _cut_photo(photo, center, side)
    camera = camera_for_crop(head.geometry.camera, center, side, PANEL_PX)
    fit = ("Fit", lambda: draw_wireframe(cut, head, camera))
    return [
        ("Photo", lambda: cut),
        *([fit] if len(head.geometry.faces) < MOST_LINES else []),
        ("Shape", lambda: _picture(shape, camera, clay=True)),
    ]


def fine_clay(head: Head) -> Head:
    """The head as a finer mesh that its displacement moves; itself without one."""
    geometry, model = head.geometry, head.model
    if geometry.detail is None or model is None:
        return head
    fine = displaced(model, geometry.vertices_mm, geometry.detail.displacement_mm)
    mesh = replace(geometry, vertices_mm=fine.vertices, faces=fine.faces)
    return replace(head, geometry=mesh, appearance=None, model=None)


def _view_panels(head: Head, shape: Head) -> list[Panel]:
    def view(yaw_deg: float, light: str | None = None, clay: bool = False) -> Panel:
        def draw() -> Image.Image:
            camera = view_camera(head.geometry.vertices_mm, PANEL_PX, yaw_deg)
            lit = shape if clay else head if light is None else head.relight(studio_light(light))
            return _picture(lit, camera, clay)

        side = "left" if yaw_deg < 0 else "right"
        label = "Front" if yaw_deg == 0 else f"Three-quarter {side}"
        return (label if light is None else f"Relit: {light} light"), draw

    if head.appearance is None:
        return [view(0.0, clay=True), view(-THREE_QUARTER_DEG, clay=True)]
    return [
        view(0.0),
        view(-THREE_QUARTER_DEG),
        view(THREE_QUARTER_DEG),
        view(-12.0, RELIGHTS[0]),
        view(20.0, RELIGHTS[1]),
    ]


def _picture(head: Head, camera: Camera, clay: bool = False) -> Image.Image:
    image, mask = render_head(head, camera, PANEL_PX, PANEL_PX, clay=clay)
    red, green, blue = (c / 255 for c in PANEL)
    return to_picture(image, mask, (red, green, blue))


def _cut_photo(photo: Rgb, center: tuple[float, float], side_px: float) -> Image.Image:
    """The square of the photo; what lies outside has the panel's colour."""
    from PIL import Image

    crop = crop_square(photo, center, side_px, PANEL_PX)
    pixels = (crop.image.permute(1, 2, 0) * 255).round().byte().numpy()
    along = (np.arange(PANEL_PX) + 0.5) * side_px / PANEL_PX - side_px / 2
    u, v = along + center[0], along + center[1]
    outside_u = (u < -0.5) | (u > photo.shape[1] - 0.5)
    outside_v = (v < -0.5) | (v > photo.shape[0] - 0.5)
    pixels[outside_v[:, None] | outside_u[None, :]] = PANEL
    return Image.fromarray(pixels)


def draw_wireframe(
    picture: Image.Image,
    head: Head,
    camera: Camera,
    color: tuple[int, int, int] = ACCENT,
    opacity: float = 0.55,
) -> Image.Image:
    """The visible edges of a head's polygons over a square picture.

    Args:
        picture: what lies under the lines.
        head: the head.
        camera: model frame to px of the picture.
        color: of the lines, sRGB.
        opacity: of the lines, in [0, 1].
    """
    from PIL import Image, ImageDraw

    fine = 3
    size = picture.width
    points = project(head.geometry.vertices_mm, camera)[:, :2].cpu().numpy()
    lines = ((points[visible_edges(head, camera, size)] + 0.5) * fine - 0.5).reshape(-1, 4)
    layer = Image.new("L", (size * fine, size * fine), 0)
    draw = ImageDraw.Draw(layer)
    for line in lines.tolist():
        draw.line(line, fill=round(255 * opacity), width=2)
    mask = layer.resize((size, size), Image.Resampling.BOX)
    result = picture.copy()
    result.paste(color, (0, 0), mask)
    return result


def visible_edges(head: Head, camera: Camera, size: int) -> np.ndarray:
    """Polygon edges (e, 2), vertex ids, of which both ends belong to faces that can be seen."""
    geometry = head.geometry
    vertices = geometry.vertices_mm
    depth = screen_depth(vertices, camera)
    screen = torch.cat((project(vertices, camera)[:, :2], depth[:, None]), dim=1)
    seen = rasterize(screen[None], geometry.faces, size, size, cull_backfaces=True).face_ids
    face_ids = seen.unique()
    visible = torch.zeros(len(vertices), dtype=torch.bool)
    visible[geometry.faces[face_ids[face_ids >= 0].long()].reshape(-1)] = True
    edges = _polygon_edges(head)
    return edges[visible[edges].all(1)].cpu().numpy()


def _polygon_edges(head: Head) -> Tensor:
    """All edges (e, 2), each once; the diagonals of quads left out where quads are known."""
    quads = None if head.model is None else head.model.topology.polygons
    polygons = head.geometry.faces if quads is None else quads
    following = polygons.roll(-1, 1)
    following = torch.where(following < 0, polygons[:, :1], following)
    pairs = torch.stack((polygons, following), dim=-1).reshape(-1, 2).long()
    low, high = pairs[(pairs >= 0).all(1)].sort(1).values.unbind(1)
    count = len(head.geometry.vertices_mm)
    key = (low * count + high).unique()
    return torch.stack((key // count, key % count), dim=1)


def _right_note(head: Head) -> str:
    return f"{head.weights} weights"


def _footer(head: Head) -> str:
    pose = "   ".join(f"{name} {value:+.0f}°" for name, value in head.pose_deg.items())
    active = sorted(head.expression.items(), key=lambda item: -item[1])[:4]
    shown = "   ".join(f"{name} {value:.2f}" for name, value in active if value >= 0.05)
    return f"{pose}      {shown}"


def _sheet(
    pictures: Sequence[tuple[str, Image.Image]],
    title: str,
    note: str,
    footer: str,
    warnings: Sequence[str],
) -> Image.Image:
    """Labelled panels in rows on the canvas."""
    from PIL import Image, ImageDraw

    columns = len(pictures) if len(pictures) <= MAX_SINGLE_ROW else COLUMNS
    rows = -(-len(pictures) // columns)
    width = 2 * MARGIN_PX + columns * PANEL_PX + (columns - 1) * GAP_PX
    height = HEADER_PX + rows * (PANEL_PX + LABEL_PX) + FOOTER_PX
    sheet = Image.new("RGB", (width, height), CANVAS)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, 46), title, TEXT, _font(26), anchor="lm")
    draw.text((width - MARGIN_PX, 46), note, MUTED, _font(18), anchor="rm")
    corners = _rounded_mask(PANEL_PX)
    for i, (label, picture) in enumerate(pictures):
        x = MARGIN_PX + (i % columns) * (PANEL_PX + GAP_PX)
        y = HEADER_PX + (i // columns) * (PANEL_PX + LABEL_PX)
        sheet.paste(picture, (x, y), corners)
        draw.text((x + 2, y + PANEL_PX + 8), label, MUTED, _font(15), anchor="la")
    bottom = height - FOOTER_PX / 2 + 4
    draw.text((MARGIN_PX, bottom), footer, MUTED, _font(15), anchor="lm")
    if warnings:
        draw.text((width - MARGIN_PX, bottom), warnings[0], AMBER, _font(15), anchor="rm")
    return sheet


def _rounded_mask(size: int) -> Image.Image:
    from PIL import Image, ImageDraw

    mask = Image.new("L", (size * 4, size * 4), 0)
    box = (0, 0, size * 4 - 1, size * 4 - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, CORNER_PX * 4, fill=255)
    return mask.resize((size, size), Image.Resampling.BOX)


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)
