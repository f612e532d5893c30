"""PGN at run time: photos of one person to heads of the face model with one identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.symmetry import HeadSymmetry, head_symmetry
from lifemask.faces.crop import Box, crop_square, crop_to_photo
from lifemask.faces.landmarker import turned_back
from lifemask.graphics.camera import camera_like, default_focal_px, project
from lifemask.graphics.pose import perspective_camera
from lifemask.methods._coefficients import project_points
from lifemask.methods._crops import Place, first_place, head_geometry, scored_points
from lifemask.methods._pgn_net import Frames, Glimpse, PgnConfig, PgnNet
from lifemask.methods._pgn_pose import HeadPose
from lifemask.methods._targets import HeadLabels
from lifemask.nn.landmark_net import crop_px_from_unit
from lifemask.types import CameraModel, Crop, Face, Geometry, Landmarks


@dataclass(frozen=True)
class PgnPredictConfig:
    """How the network is asked.

    Attributes:
        passes: crops; from the second on the square comes from the head of the pass before. None:
            2 for a detected face without landmarks, 1 otherwise.
        flip: look at the mirrored crop, too, and take the mean of both answers.
        shape: "model": the mesh is the face model's; "map": what the position map shows of it is
            moved to where the map has it.
        camera: "pinhole" solves the perspective pose from the map's points, too, and gives that.
        focal_px: of the pinhole camera in photo px; None for 1015 / 224 image widths.
        camera_steps: Gauss-Newton steps of the perspective pose after its closed form.
    """

    passes: int | None = None
    flip: bool = True
    shape: Literal["model", "map"] = "model"
    camera: CameraModel = "orthographic"
    focal_px: float | None = None
    camera_steps: int = 2

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: an unknown shape, or numbers that make no sense.
        """
        if self.shape not in ("model", "map"):
            raise ValueError(f"unknown shape {self.shape!r}; valid: model, map")
        if self.camera not in ("orthographic", "pinhole"):
            raise ValueError(f"unknown camera {self.camera!r}; valid: orthographic, pinhole")
        if self.passes is not None and self.passes < 1:
            raise ValueError("passes must be at least 1")


@dataclass(frozen=True)
class FrameView:
    """One photo of a person.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        face: a detected face, or the landmark square itself as a box in photo px.
        landmarks: place the crop of a detected face, nothing else.
    """

    image: UInt8[ndarray, "h w 3"]
    face: Face | Box
    landmarks: Landmarks | None = None


@dataclass(frozen=True)
class PgnPrediction:
    """Heads of b crops; lengths in half-crops, see `HeadLabels`.

    Attributes:
        labels: pose, identity (the same for all frames of a person) and expression.
        position_map: (b, 4, n, n) u, v, w and log beta of the chart's texels.
        vertices: (b, v, 4) the map's values at all vertices: the mesh without a model, and its
            log beta; NaN outside the chart.
        apart: (b, v) distance in (u, v, w) between that mesh and the model's, NaN there, too; the
            mean of w over the mesh is taken out.
    """

    labels: HeadLabels
    position_map: Float[Tensor, "b 4 n n"]
    vertices: Float[Tensor, "b v 4"]
    apart: Float[Tensor, "b v"]

    def uncertainty(self) -> Float[Tensor, "b v"]:
        """Expected error of each vertex in half-crops: both meshes' distance and `e^beta`."""
        return (self.apart.square() + 3 * (2 * self.vertices[..., 3]).exp()).sqrt()


class FoundHeads(NamedTuple):
    """Heads of frames; identity and expression (b, .), pose about the pivot."""

    identity: Float[Tensor, "b i"]
    expression: Float[Tensor, "b e"]
    pose: HeadPose


class FrameNetwork(Protocol):
    """Crops to what `ExportNet` packs, whatever runs the network."""

    def __call__(self, crops: Float[ndarray, "b 3 s s"], /) -> Float[ndarray, "b d"]:
        """Packed output of float32 crops in [0, 1]."""
        ...


class PgnPredictor:
    """Reconstructs faces in photos; made by `load_pgn`.

    Attributes:
        config: sizes of the network.
        net: the network in torch, for what several frames share.
        model: the face model.
        tag: licence tag of the weights, "open" or "research".
    """

    def __init__(self, network: FrameNetwork, net: PgnNet, model: FaceModel, tag: str) -> None:
        self._network = network
        self.net = net.eval().requires_grad_(False)
        self.config: PgnConfig = net.config
        self.model = model
        self.tag = tag
        self._symmetry = head_symmetry(model)

    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        face: Face | Box,
        landmarks: Landmarks | None = None,
        config: PgnPredictConfig | None = None,
    ) -> Geometry:
        """Head and orthographic camera of one face, in photo px, on the CPU; see `together`."""
        return self.together([FrameView(image, face, landmarks)], config)[0]

    def together(
        self, views: Sequence[FrameView], config: PgnPredictConfig | None = None
    ) -> list[Geometry]:
        """Heads of one person: one identity, pose and expression of each photo.

        Args:
            views: photos.
            config: how to ask; None for the defaults.

        Returns:
            Geometries in the order of the views; with the position map's mesh and the uncertainty
            of each vertex.
        """
        config = config or PgnPredictConfig()
        head = self.net.head
        places = []
        for view in views:
            given = None if view.landmarks is None else scored_points(view.landmarks, head)
            places.append(first_place(view.face, given))
        guess = any(place.guess for place in places)
        for _ in range(config.passes or (2 if guess else 1)):
            crops = [
                crop_square(view.image, place.center, place.side, self.config.size)
                for view, place in zip(views, places, strict=True)
            ]
            upright = torch.stack(
                [c.image.rot90(p.turns, (1, 2)) for c, p in zip(crops, places, strict=True)]
            )
            found = self.predict_crops(upright, torch.zeros(len(crops), dtype=torch.long), config)
            heads = [
                self._geometry(found, row, crop, place)
                for row, (crop, place) in enumerate(zip(crops, places, strict=True))
            ]
            places = [p.moved(self._scored(h)) for p, h in zip(places, heads, strict=True)]
        if config.shape == "map":
            heads = [on_the_map(h) for h in heads]
        if config.camera == "pinhole":
            heads = [
                self._in_perspective(head, view.image.shape, config)
                for head, view in zip(heads, views, strict=True)
            ]
        return heads

    def _in_perspective(
        self, geometry: Geometry, image: tuple[int, ...], config: PgnPredictConfig
    ) -> Geometry:
        """The geometry under the pinhole camera that the map's vertices of the face tell."""
        assert geometry.map_vertices_px is not None
        assert geometry.uncertainty_px is not None
        height, width = image[:2]
        regions = self.model.topology.regions
        shown = geometry.map_vertices_px.isfinite().all(1)
        shown &= regions["face"] if "face" in regions else shown
        f_px = geometry.vertices_mm.new_tensor(config.focal_px or default_focal_px(width))
        center = geometry.vertices_mm.new_tensor([(width - 1) / 2, (height - 1) / 2])
        kind = torch.float64
        points = (geometry.vertices_mm[shown], geometry.map_vertices_px[shown], f_px, center)
        weights = 1 / geometry.uncertainty_px[shown]
        given = [x.to(kind) for x in (*points, weights)]
        camera = camera_like(
            perspective_camera(*given, steps=config.camera_steps, nearness="sight"),
            geometry.vertices_mm,
        )
        return replace(geometry, camera=camera)

    @torch.no_grad()
    def predict_crops(
        self,
        crops: Float[Tensor, "b 3 s s"],
        person: Int[Tensor, "b"] | None = None,
        config: PgnPredictConfig | None = None,
    ) -> PgnPrediction:
        """Heads of landmark squares in [0, 1].

        Args:
            crops: (b, 3, size, size) upright faces.
            person: (b,) whose frames they are, numbers from 0; None: all different.
            config: flip; None for the defaults.
        """
        config = config or PgnPredictConfig()
        person = torch.arange(len(crops)) if person is None else person
        frames = self._frames(torch.cat((crops, crops.flip(3))) if config.flip else crops)
        both = [Frames(*part) for part in zip(*(x.split(len(crops)) for x in frames), strict=True)]
        frames = both[0]
        identity = self.net.identity_of(frames.features, person)
        if config.flip:
            mirrored = both[1]
            frames = mirrored_mean(frames, mirrored, self.net, self._symmetry)
            if self._symmetry is not None:
                sign = torch.from_numpy(self._symmetry.identity_sign)
                other = sign * self.net.identity_of(mirrored.features, person)
                identity = (identity + other) / 2
        landmarks = self.net.read_landmarks(frames.position_map)
        shape = self.net.head.shape(identity, frames.expression)
        pose = self.net.pose_of(frames, landmarks, shape)
        found = FoundHeads(identity, frames.expression, pose)
        return self._prediction(found, frames.position_map)

    def _prediction(self, found: FoundHeads, position_map: Tensor) -> PgnPrediction:
        head, pose = self.net.head, found.pose
        turned = pose.scale[:, None] * (pose.rotation @ head.get_buffer("pivot"))
        origin = pose.shift - torch.stack((turned[:, 0], -turned[:, 1]), 1)
        labels = HeadLabels(pose.rotation, pose.scale, origin, found.identity, found.expression)
        mesh = self.net.read_vertices(position_map)
        own = self._posed_vertices(labels)
        apart = mesh[..., :3] - own
        offset = apart[..., 2:].nanmean(1, keepdim=True)
        apart = torch.cat((apart[..., :2], apart[..., 2:] - offset), -1)
        return PgnPrediction(labels, position_map, mesh, apart.norm(dim=-1))

    def _posed_vertices(self, labels: HeadLabels) -> Float[Tensor, "b v 3"]:
        with torch.no_grad():
            shape = self.model(labels.identity, labels.expression) / 100.0
        matrix = labels.scale[:, None, None] * labels.rotation
        return project_points(shape, matrix, labels.shift)

    def _frames(self, crops: Tensor) -> Frames:
        pixels = np.ascontiguousarray(crops.cpu().float().numpy())
        packed = torch.from_numpy(self._network(pixels))
        return self.net.whole(unpacked(packed, self.net))

    def _geometry(self, found: PgnPrediction, row: int, crop: Crop, place: Place) -> Geometry:
        geometry = head_geometry(self.model, found.labels, row, crop, place.turns)
        per_half = crop.side_px / 2
        on_map = found.vertices[row, :, :3]
        pixels = crop_px_from_unit(on_map, crop.size)
        in_photo = crop_to_photo(turned_back(pixels, place.turns, crop.size), crop)
        own = project(geometry.vertices_mm, geometry.camera)
        offset = (in_photo[:, 2] - own[:, 2]).nanmean()
        in_photo = torch.cat((in_photo[:, :2], in_photo[:, 2:] - offset), 1)
        return replace(
            geometry,
            map_vertices_px=in_photo,
            uncertainty_px=found.uncertainty()[row] * per_half,
        )

    def _scored(self, geometry: Geometry) -> Tensor:
        points = self.model.landmarks(geometry.vertices_mm, self.net.head.scored)
        return project(points, geometry.camera)


def on_the_map(geometry: Geometry) -> Geometry:
    """The geometry with the charted vertices where the position map has them; without parameters.

    Vertices that the map does not show move by what their nearest charted ones move, less so the
    farther they are away.

    Raises:
        ValueError: a geometry without a position map's mesh.
    """
    if geometry.map_vertices_px is None:
        raise ValueError("the geometry has no position map")
    camera = geometry.camera
    lifted = geometry.map_vertices_px - camera.translation
    lifted = lifted * lifted.new_tensor([1.0, -1.0, 1.0]) / camera.scale
    wanted = lifted @ camera.rotation
    shown = wanted.isfinite().all(1)
    change = torch.zeros_like(wanted)
    change[shown] = wanted[shown] - geometry.vertices_mm[shown]
    apart = torch.cdist(geometry.vertices_mm[~shown], geometry.vertices_mm[shown])
    near, index = apart.topk(8, largest=False)
    share = (-near / FADE_MM).exp()
    change[~shown] = (share[..., None] * change[shown][index]).sum(1) / 8
    return replace(geometry, vertices_mm=geometry.vertices_mm + change, params=None)


FADE_MM = 15.0


def mirrored_mean(
    frames: Frames, mirrored: Frames, net: PgnNet, symmetry: HeadSymmetry | None
) -> Frames:
    """Frames with the mean of what a crop and its mirror image say.

    The mirrored map is read at the mirrored texels with u negated, the expressions at those of the
    other side, where the model tells which these are. Features stay those of the crop itself.
    """
    partner = net.get_buffer("mirror_texels").long()
    flat = mirrored.position_map.flatten(2)[:, :, partner]
    sign = flat.new_tensor([-1.0, 1.0, 1.0, 1.0])
    other = (flat * sign[:, None]).unflatten(2, mirrored.position_map.shape[2:])
    frames = frames._replace(position_map=(frames.position_map + other) / 2)
    if symmetry is None:
        return frames
    expression = mirrored.expression[:, torch.from_numpy(symmetry.expression_partner)]
    return frames._replace(expression=(frames.expression + expression) / 2)


def unpacked(packed: Float[Tensor, "b d"], net: PgnNet) -> Glimpse:
    """What `ExportNet` packed."""
    features = net.to_identity_features[0]
    assert isinstance(features, torch.nn.Linear)
    anchors, cells = net.trunk.anchors, net.decoder.cell_size
    sizes = [4 * anchors, 4 * cells**2, features.out_features, net.head.expression_size]
    parts = packed.split([*sizes, packed.shape[1] - sum(sizes)], 1)
    return Glimpse(
        parts[0].unflatten(1, (anchors, 4)), parts[1].unflatten(1, (4, cells, cells)), *parts[2:]
    )
