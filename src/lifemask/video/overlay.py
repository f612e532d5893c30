"""The clip with the heads drawn over it: the mesh's lines on each face, the head itself beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from lifemask.facemodel.base import Topology
from lifemask.graphics.animation import write_animation
from lifemask.graphics.camera import orthographic_camera
from lifemask.graphics.rasterize import rasterize
from lifemask.head import FRAME_FILL, Head, render_head, to_picture
from lifemask.video.frames import Clip
from lifemask.video.types import PersonTrack, VideoResult

Rgb = UInt8[np.ndarray, "h w 3"]
COLORS = ((116, 206, 222), (236, 178, 88), (170, 214, 120), (222, 132, 190))
"""Of the lines of each person in turn, sRGB."""
PANEL = (0.106, 0.114, 0.129)
INSET = 0.3
"""Side of a person's picture in heights of the frame."""
FINE = 2
MOST_INSETS = 3


def write_overlay(
    result: VideoResult,
    clip: Clip,
    path: Path,
    on_frame: Callable[[int], None] | None = None,
) -> int:
    """Write the overlay as MP4 with the clip's frame rate, without sound.

    Args:
        result: what was found.
        clip: read again.
        path: of the file; its folder exists.
        on_frame: told the number of each frame that was drawn.

    Returns:
        How many frames were written.

    Raises:
        UserError: the clip cannot be read, or the file not be written.
    """
    from PIL import Image

    def pictures() -> Iterator[Image.Image]:
        drawing = Overlay(result)
        for index, image in enumerate(clip.frames()):
            if index >= result.frames:
                break
            yield Image.fromarray(_even(drawing(image, index)))
            if on_frame is not None:
                on_frame(index)

    return write_animation(pictures(), path, fps=result.fps)


class Overlay:
    """Draws the heads of a result over frames of its clip.

    Args:
        result: what was found.
        insets: draw the textured heads in the frame's corners, too.
    """

    def __init__(self, result: VideoResult, insets: bool = True) -> None:
        self.people = result.people
        self.insets = insets
        self._edges = _polygon_edges(self.people[0].model.topology)

    def __call__(self, image: Rgb, index: int) -> Rgb:
        """The frame with this number, drawn over."""
        picture = image.copy()
        shown = []
        for person in self.people:
            row = index - int(person.frame[0])
            if 0 <= row < len(person):
                head = person.head_at(row)
                self._wires(picture, head, COLORS[(person.number - 1) % len(COLORS)],
                            0.5 if person.seen[row] else 0.2)  # fmt: skip
                shown.append((person, head))
        if self.insets:
            for place, (person, head) in enumerate(shown[:MOST_INSETS]):
                self._inset(picture, person, head, place)
        return picture

    def _wires(self, picture: Rgb, head: Head, color: tuple[int, int, int], opacity: float) -> None:
        """Draw the visible edges of the head's polygons, antialiased."""
        from PIL import Image, ImageDraw

        geometry = head.geometry
        camera = geometry.camera
        points = (geometry.vertices_mm @ camera.rotation.mT) * camera.scale
        points = points * points.new_tensor([1.0, -1.0, 1.0]) + camera.translation
        low = points[:, :2].amin(0).floor().clamp_min(0).int().tolist()
        high = points[:, :2].amax(0).ceil().int().tolist()
        x1, y1 = min(high[0] + 1, picture.shape[1]), min(high[1] + 1, picture.shape[0])
        width, height = x1 - low[0], y1 - low[1]
        if width < 8 or height < 8:
            return
        local = points - points.new_tensor([low[0], low[1], 0.0])
        reduce = max(1.0, max(width, height) / 320)
        small = torch.cat(((local[:, :2] + 0.5) / reduce - 0.5, local[:, 2:]), 1)
        size = (int(height / reduce) + 1, int(width / reduce) + 1)
        seen = rasterize(small[None], geometry.faces, *size, cull_backfaces=True).face_ids.unique()
        visible = torch.zeros(len(points), dtype=torch.bool)
        visible[geometry.faces[seen[seen >= 0].long()].reshape(-1)] = True
        edges = self._edges[visible[self._edges].all(1)]
        lines = ((local[:, :2][edges] + 0.5) * FINE - 0.5).reshape(-1, 4).numpy()
        opacity *= min(1.0, max(0.4, max(width, height) / 520))  # lines of a small head lie close
        layer = Image.new("L", (width * FINE, height * FINE), 0)
        draw = ImageDraw.Draw(layer)
        for line in lines.tolist():
            draw.line(line, fill=round(255 * opacity), width=FINE)
        mask = np.asarray(layer.reduce(FINE), np.float32)[..., None] / 255
        part = picture[low[1] : y1, low[0] : x1]
        part[:] = np.round(part * (1 - mask) + np.array(color, np.float32) * mask)

    def _inset(self, picture: Rgb, person: PersonTrack, head: Head, place: int) -> None:
        """The head in the frame's light, turned as it is, in a corner."""
        side = int(INSET * min(picture.shape[:2])) // 2 * 2
        gap = max(4, side // 16)
        if side < 48:
            return
        left = picture.shape[1] - (place + 1) * (side + gap)
        if left < 0:
            return
        drawn = self._portrait(person, head, side)
        top = picture.shape[0] - side - gap
        corner = _rounded(side, side // 12)[..., None]
        part = picture[top : top + side, left : left + side]
        part[:] = np.round(part * (1 - corner) + drawn * corner)
        bar = max(2, side // 60)
        color = COLORS[(person.number - 1) % len(COLORS)]
        part[-bar:, side // 12 : -(side // 12)] = color

    def _portrait(self, person: PersonTrack, head: Head, side: int) -> Rgb:
        rest, _ = person.neutral_and_deltas
        low, high = rest.amin(0), rest.amax(0)
        scale = float(FRAME_FILL * side / (high - low).max())
        rotation = head.geometry.camera.rotation
        middle = scale * (rotation @ ((low + high) / 2))
        half = (side - 1) / 2
        shift = torch.stack((half - middle[0], half + middle[1]))
        camera = orthographic_camera(rotation, scale, shift)
        image, mask = render_head(head, camera, side, side, supersample=2)
        return np.asarray(to_picture(image, mask, PANEL))


def _polygon_edges(topology: Topology) -> torch.Tensor:
    """All edges (e, 2) of the skin's and the other parts' polygons, each once."""
    polygons = topology.faces if topology.polygons is None else topology.polygons
    following = polygons.roll(-1, 1)
    following = torch.where(following < 0, polygons[:, :1], following)
    pairs = torch.stack((polygons, following), -1).reshape(-1, 2).long()
    return pairs[(pairs >= 0).all(1)].sort(1).values.unique(dim=0)


def _rounded(side: int, radius: int) -> np.ndarray:
    """(side, side) coverage of a square with round corners."""
    along = np.abs(np.arange(side) + 0.5 - side / 2) - (side / 2 - radius)
    out = np.maximum(along, 0)
    return np.clip(radius + 0.5 - np.hypot(out[:, None], out[None]), 0, 1)


def _even(image: Rgb) -> Rgb:
    """The frame with its last row and column repeated until both sides are even."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
