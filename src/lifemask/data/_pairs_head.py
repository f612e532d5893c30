"""Heads that are put into photos: their model with relief, and their place in the crop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.data._pairs_solid import (
    Frame,
    Solid,
    SolidPlan,
    eye_vertices,
    head_solid,
    middle_depth,
    plan_head,
)
from lifemask.data._pairs_warp import warp_moves
from lifemask.facemodel.detail import Detail, DetailConfig, create_detail, displace

if TYPE_CHECKING:
    from lifemask.data._synthetic_rig import HeadRig
    from lifemask.facemodel.base import FaceModel
    from lifemask.graphics.subdivide import FineMesh
    from lifemask.types import Camera

HeadName = Literal["lifemask", "ict"]
NO_RELIEF = -1
"""Detail seed of a head without relief."""
RELIEF = DetailConfig(skin_mm=0.0)
"""Depths of the relief; none of it is read from a skin, so that parameters alone rebuild it."""
SMALL_PX = 128
"""Crops up to this side take heads that are subdivided once less, with relief of 512 texels."""
TIMES: dict[HeadName, int] = {"lifemask": 2, "ict": 1}
"""Subdivisions: edges of about 0.9 mm on the face."""
ICT_NARROW_FACE = 6706
"""ICT-FaceKit's narrow face is its first vertices; what it calls face reaches down to the chest."""
INNER = slice(36, 68)
"""Eyes and mouth of a set of 68, which bring two heads together in the image, with the nose."""
NOSE = slice(27, 36)


@dataclass(frozen=True)
class HeadParameters:
    """All that decides a head's shape.

    Attributes:
        heads: face model.
        identity: (i,) coefficients; expression: (e,).
        age: 0 to 1.
        detail_seed: whose relief; `NO_RELIEF` for none.
        warp_mm: RMS length of the moves that bend the head off its model, by the same seed.
    """

    heads: HeadName
    identity: NDArray[np.float32]
    expression: NDArray[np.float32]
    age: float
    detail_seed: int
    warp_mm: float = 0.0


@dataclass(frozen=True)
class ModelKit:
    """A face model ready to make heads with relief.

    Attributes:
        model: the face model.
        detail: its relief.
        times: subdivisions.
        plan: how its solids are closed.
        rest_mm: (v, 3) its mean head.
    """

    model: FaceModel
    detail: Detail
    times: int
    plan: SolidPlan
    rest_mm: torch.Tensor

    @property
    def name(self) -> HeadName:
        """Of the model."""
        return "ict" if self.model.name == "ict" else "lifemask"

    @torch.no_grad()
    def head(self, of: HeadParameters) -> torch.Tensor:
        """Vertices (v, 3) of the model, mm."""
        head = self.model(torch.from_numpy(of.identity), torch.from_numpy(of.expression))
        if of.warp_mm == 0:
            return head
        return head + warp_moves(self.rest_mm, eye_vertices(self.model), of.warp_mm, of.detail_seed)

    @torch.no_grad()
    def fine(self, of: HeadParameters, head_mm: torch.Tensor) -> FineMesh:
        """The head subdivided, with its relief."""
        size = self.detail.atlas.size
        if of.detail_seed == NO_RELIEF:
            height = np.zeros((size, size), np.float32)
        else:
            height = self.detail.displacement_mm(of.expression, of.age, of.detail_seed)
        return displace(self.detail, head_mm, height, self.times)


def create_kit(name: HeadName, size: int, data: Path | None = None) -> ModelKit:
    """Prepare a face model for crops of `size` px.

    Args:
        name: "lifemask", or "ict", which needs `data`.
        size: side of the crops in px.
        data: folder with `ict/ict.npz`.

    Raises:
        AssetError: ICT-FaceKit is not there.
    """
    from lifemask.facemodel import load_face_model

    small = size <= SMALL_PX
    model = load_face_model("lifemask") if name == "lifemask" else _load_ict(data)
    times = TIMES[name] - small
    detail = create_detail(model, RELIEF, 512 if small else 1024)
    flat = np.zeros((detail.atlas.size,) * 2, np.float32)
    with torch.no_grad():
        mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    plan = plan_head(model, displace(detail, mean, flat, times))
    return ModelKit(model, detail, times, plan, mean)


def _load_ict(data: Path | None) -> FaceModel:
    """ICT-FaceKit with the parts and regions that relief and solids go by."""
    from lifemask.facemodel.ict import load

    model = load(None if data is None else data / "ict" / "ict.npz")
    topology = model.topology
    names = list(topology.part_names)
    face, back = names.index("M_Face"), names.index("M_BackHead")
    order = [face, back, *(k for k in range(len(names)) if k not in (face, back))]
    place = torch.tensor([order.index(k) for k in range(len(names))])
    regions = dict(topology.regions)
    narrow = torch.arange(len(topology.mirror)) < ICT_NARROW_FACE
    both = {name: regions[f"{name}_L"] | regions[f"{name}_R"] for name in ("eye_socket", "eyeball")}
    regions |= {
        "face": narrow, "inner_mouth": regions["mouth_socket"], "eyeballs": both["eyeball"],
        "eye_socket_interior": both["eye_socket"],
    }  # fmt: skip
    model.topology = replace(
        topology,
        face_part=place[topology.face_part],
        part_names=("skin", "back_head", *(names[k] for k in order[2:])),
        regions=regions,
    )
    return model


def stored(values: NDArray | torch.Tensor) -> NDArray[np.float32]:
    """Numbers as a shard keeps them: six decimals."""
    return np.round(np.asarray(values, np.float64), 6).astype(np.float32)


def same_expression(
    source: FaceModel, target: FaceModel, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Activations (e,) of a model from those of another, by name; 0 where it has no such."""
    by_name = dict(zip(source.expression_names, values.tolist(), strict=True))
    return np.array([by_name.get(name, 0.0) for name in target.expression_names], np.float32)


def drawn_faces(model: FaceModel, rig: HeadRig) -> NDArray[np.int64]:
    """The model's triangle (len(rig.faces),) of each of the rig's, which leaves some out."""
    rows = {tuple(row): k for k, row in enumerate(model.topology.faces.tolist())}
    return np.array([rows[tuple(row)] for row in rig.faces.tolist()], np.int64)


def place_like(
    kit: ModelKit, head_mm: torch.Tensor, camera: Camera, points68: torch.Tensor
) -> Camera:
    """The camera, moved and zoomed so that eyes, nose and mouth appear where others do.

    Heads of one camera differ in size and in where their origin lies; without this step the
    swapped head would look through the hair of the photo at another place.

    Args:
        kit: of the head.
        head_mm: (v, 3).
        camera: scaled orthographic, to crop px.
        points68: (68, 3) the photo's head, crop px.
    """
    from lifemask.graphics.camera import project

    own = project(kit.model.landmarks(head_mm, "ict68"), camera)
    a, b = (torch.cat((p[NOSE], p[INNER]))[:, :2] for p in (own, points68))
    zoom = ((b - b.mean(0)).norm() / (a - a.mean(0)).norm()).clamp(0.85, 1.18)
    shift = b.mean(0) - zoom * (a.mean(0) - camera.translation[:2])
    moved = torch.cat((shift, shift.new_zeros(1)))
    return replace(camera, scale=camera.scale * zoom, translation=moved)


def stored_camera(camera: Camera) -> Camera:
    """The camera with numbers as a shard keeps them."""
    return replace(
        camera,
        rotation=torch.from_numpy(stored(camera.rotation)),
        scale=torch.tensor(float(stored(camera.scale))),
        translation=torch.from_numpy(stored(camera.translation)),
    )


@dataclass(frozen=True)
class PlacedHead:
    """A head in a crop.

    Attributes:
        parameters: of its shape.
        vertices_mm: (v, 3) of the model.
        fine: with relief.
        frame: the crop's cube.
        solid: truth in the cube.
    """

    parameters: HeadParameters
    vertices_mm: torch.Tensor
    fine: FineMesh
    frame: Frame
    solid: Solid


def place_head(
    kit: ModelKit, of: HeadParameters, head_mm: torch.Tensor, camera: Camera, size: int
) -> PlacedHead:
    """Give a head its relief and its solid in a crop."""
    z_mid = float(stored(np.array(middle_depth(kit.model, head_mm, camera, size))))
    frame = Frame(camera, size, z_mid)
    fine = kit.fine(of, head_mm)
    return PlacedHead(of, head_mm, fine, frame, head_solid(kit.plan, fine, head_mm, frame))
