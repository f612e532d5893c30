"""The parametric fit of a pair's photo, the crop it makes, and why a photo is turned away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.types import FACE_CLASSES, REGION_NAMES

if TYPE_CHECKING:
    from lifemask.data._pairs_source import Source
    from lifemask.faces.landmarker import Landmarker
    from lifemask.faces.parsing import Parser
    from lifemask.methods.pgn import PgnPredictor
    from lifemask.types import Camera, Geometry, Landmarks

Reason = Literal["no face", "residual", "yaw", "cover", "hidden"]
REASONS: tuple[Reason, ...] = ("no face", "residual", "yaw", "cover", "hidden")
"""Why photos are turned away; hidden: little of the swapped face would be seen."""
SQUARE_SET = "ibug68-3d-bfm"
EXPAND = 1.2
"""Side of the cube's square in landmark squares."""
"""The first classes of `REGION_NAMES` are the face's."""
NECK, HAIR, BACKGROUND = (REGION_NAMES.index(n) for n in ("ears_neck", "hair", "background"))


@dataclass(frozen=True)
class Networks:
    """The networks that look at photos."""

    landmarker: Landmarker
    pgn: PgnPredictor
    parser: Parser


@dataclass(frozen=True)
class HeadMaps:
    """What a parametric head shows in a crop.

    Attributes:
        depth: (S, S) w in crop px, NaN off the head.
        normals: (S, S, 3) unit, camera frame, 0 off the head.
        face: (S, S) the model's region "face".
        core: (S, S) its region "narrow_face", which ends at the chin.
    """

    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    face: NDArray[np.bool_]
    core: NDArray[np.bool_]

    @property
    def head(self) -> NDArray[np.bool_]:
        """(S, S) whether the head is there."""
        return np.isfinite(self.depth)


@dataclass(frozen=True)
class Fitted:
    """A photo's head and crop.

    Attributes:
        source: the photo.
        geometry: of the fit, photo px.
        camera: to crop px.
        center_px: of the crop, photo px; side_px: its side.
        image: (S, S, 3) uint8 crop.
        region: (S, S) uint8 the parser's classes of the crop.
        maps: of the fitted head.
        residual: percent of the landmarks' box (NME).
        yaw_deg: of the head.
        cover: share of the fitted face that the parser calls face.
    """

    source: Source
    geometry: Geometry
    camera: Camera
    center_px: tuple[float, float]
    side_px: float
    image: NDArray[np.uint8]
    region: NDArray[np.uint8]
    maps: HeadMaps
    residual: float
    yaw_deg: float
    cover: float

    def rejected(self, max_residual: float, max_yaw_deg: float, min_cover: float) -> Reason | None:
        """Why the photo cannot be used, if so."""
        if not self.residual <= max_residual:
            return "residual"
        if not abs(self.yaw_deg) <= max_yaw_deg:
            return "yaw"
        return None if self.cover >= min_cover else "cover"


def load_networks(weights: Literal["open", "research"] = "open") -> Networks:
    """The shipped networks, one thread each.

    Args:
        weights: of landmarker and parser; the parametric method is always "open".
    """
    from lifemask.faces.landmarker import load_landmarker
    from lifemask.faces.parsing import load_parser
    from lifemask.methods.pgn import load_pgn

    return Networks(load_landmarker(weights), load_pgn("open"), load_parser(weights))


def fit_photo(networks: Networks, source: Source, size: int) -> Fitted:
    """Fit the face of a photo, and cut and parse the crop that the fit's landmarks make."""
    from lifemask.faces.crop import square_box
    from lifemask.graphics.camera import camera_for_crop, project

    geometry, landmarks = fit_head(networks, source.image, source.face)
    model = networks.pgn.model
    points = project(model.landmarks(geometry.vertices_mm, SQUARE_SET), geometry.camera)
    center, side = square_box(points)
    image = cut_crop(source.image, center, side * EXPAND, size)
    camera = camera_for_crop(geometry.camera, center, side * EXPAND, size)
    region = parse_crop(networks.parser, image)
    maps = head_maps(networks.pgn.model, geometry.vertices_mm, camera, size)
    seen = (region < FACE_CLASSES)[maps.face]
    forward = geometry.camera.rotation[:, 2]
    return Fitted(
        source, geometry, camera, center, side * EXPAND, image, region, maps,
        residual_nme(points, landmarks), float(torch.rad2deg(torch.atan2(forward[0], forward[2]))),
        float(seen.mean()) if seen.size else 0.0,
    )  # fmt: skip


def fit_head(networks: Networks, image, face) -> tuple[Geometry, Landmarks]:
    """The head of a face by landmarks and network, in photo px, as the product finds it."""
    from lifemask.types import Face

    landmarks = networks.landmarker(image, face)
    found = face if isinstance(face, Face) else Face(face, 1.0)
    return networks.pgn(image, found, landmarks), landmarks


def residual_nme(points: torch.Tensor, landmarks: Landmarks) -> float:
    """Mean distance of points (68, .) to the landmarks, percent of sqrt(w h) of their box."""
    from lifemask.facemodel.landmarks import convert

    given = convert(landmarks.points, landmarks.convention, SQUARE_SET)[:, :2]
    low, high = given.amin(0), given.amax(0)
    return float(100 * (points[:, :2] - given).norm(dim=1).mean() / (high - low).prod().sqrt())


def cut_crop(image, center, side: float, size: int) -> NDArray[np.uint8]:
    """A square (size, size, 3) uint8 of a photo."""
    from lifemask.faces.crop import crop_square

    crop = crop_square(image, center, side, size).image
    return np.ascontiguousarray((crop * 255).round().byte().permute(1, 2, 0).numpy())


def parse_crop(parser: Parser, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The parser's classes (S, S) of a crop, whose square is the one it is parsed on."""
    from torch.nn.functional import interpolate

    size = len(image)
    whole = (-0.5, -0.5, size - 0.5, size - 0.5)
    found = parser(image, whole, expand=1.0).probabilities[None]
    return interpolate(found, (size, size), mode="bilinear")[0].argmax(0).byte().numpy()


def head_maps(model, vertices_mm: torch.Tensor, camera: Camera, size: int) -> HeadMaps:
    """Depth, normals and face of a head's skin and eyes in a crop."""
    from lifemask.graphics.camera import project
    from lifemask.graphics.mesh import vertex_normals
    from lifemask.graphics.rasterize import barycentric_at_pixels, interpolate, rasterize

    topology = model.topology
    names = [k for k, name in enumerate(topology.part_names) if name in ("skin", "eyes")]
    faces = topology.faces[torch.isin(topology.face_part, torch.tensor(names))]
    screen = project(vertices_mm, camera)[None]
    found = rasterize(screen, faces, size, size, cull_backfaces=True)
    weights = barycentric_at_pixels(screen, faces, found.face_ids)
    normals = vertex_normals(vertices_mm, faces) @ camera.rotation.mT
    of = [topology.regions[name] | topology.regions["eyeballs"] for name in ("face", "narrow_face")]
    values = torch.cat((normals, torch.stack(of, 1).to(normals)), 1)[None]
    shown = interpolate(values, faces, found.face_ids, weights)[0]
    normals = torch.nn.functional.normalize(shown[..., :3], dim=-1, eps=1e-6).numpy()
    depth = found.depth[0].numpy()
    face, core = (shown[..., 3:] > 0.5).unbind(-1)
    depth = np.where(np.isfinite(depth), depth, np.float32(np.nan))
    return HeadMaps(depth, normals, face.numpy(), core.numpy())
