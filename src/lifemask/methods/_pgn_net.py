"""The network of PGN: frames of one person to one identity, and each to expression, map and pose.

I1 -> [encoder] -> F1 --+--> expression head -> b1
                        |--> decoder -> UV position map -> 3D landmarks L1, log beta
                  fuse(F1, F2) -> identity head -> a (shared)
I2 -> [encoder] -> F2 --+--> expression head -> b2 ; decoder -> L2
S(a, bk) --Procrustes to Lk--> pose k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.chart import create_chart, map_weights
from lifemask.methods._coefficients import START_6D, CoefficientHead, project_points
from lifemask.methods._pgn_pose import HeadPose, affine_solver, solve_pose, unposed
from lifemask.methods._pgn_trunk import Encoder, Seen, create_trunk
from lifemask.nn.parametric import CLOSE_CROP, rotation_from_6d
from lifemask.nn.position_map import LOG_BETA_RANGE, START_LOG_BETA, PositionDecoder

Fusion = Literal["both", "mean", "max", "first", "none"]
UNPOSED_UNIT = 0.05  # 5 mm: spread of the un-posed points that the heads read
START_EXPRESSION = -2.5  # before the sigmoid


@dataclass(frozen=True)
class PgnConfig:
    """Sizes and choices of the network.

    Attributes:
        encoder: "mobile" is the landmark network, its soft-argmax points included: the position
            map starts from them. The ResNets are PGN's; "tiny" serves smoke runs.
        size: side of the crop in px.
        map_size: side of the position map in texels.
        widths: channels of the decoder at 8, 16, 32, ... cells.
        hidden: width of the heads.
        pose: "pgn" solves it from the map's points; "regressed" takes it from a head.
        points: how many points of the map the pose is solved from: 68, or 324: all that the label
            set has beside a second copy of the 68.
        weights: "learned": points count by the map's own beta; "uniform": all alike.
        fusion: what the identity head gets of several frames: mean and maximum of their features
            ("both"), one of these, the first frame's features, or "none": an identity each.
        unposed: the heads read the map's points turned back into the model frame, too.
        second_look: points at which the mobile encoder looks again; 0 leaves that out.
    """

    encoder: Encoder = "mobile"
    size: int = 112
    map_size: int = 64
    widths: tuple[int, ...] = (64, 48, 32)
    hidden: int = 384
    pose: Literal["pgn", "regressed"] = "pgn"
    points: Literal[68, 324] = 324
    weights: Literal["learned", "uniform"] = "learned"
    fusion: Fusion = "both"
    unposed: bool = True
    second_look: int = 136


class PgnOutput(NamedTuple):
    """What the network says of frames; lengths in half-crops.

    Attributes:
        position_map: (b, 4, n, n) u, v, w and log beta of the chart's texels.
        landmarks: (b, k, 4) the map's values at the label set's landmarks.
        points: (b, m, 3) the posed model's points, landmarks of the label set first.
        matrix: (b, 3, 3) scale times rotation; shift: (b, 2) of the pivot.
        identity: (b, i) the person's; alone: (b, i) what each frame would say by itself.
        expression: (b, e).
        anchors: (b, k, 4) the encoder's own landmarks and log beta; none of them for a ResNet.
    """

    position_map: Float[Tensor, "b 4 n n"]
    landmarks: Float[Tensor, "b k 4"]
    points: Float[Tensor, "b m 3"]
    matrix: Float[Tensor, "b 3 3"]
    shift: Float[Tensor, "b 2"]
    identity: Float[Tensor, "b i"]
    alone: Float[Tensor, "b i"]
    expression: Float[Tensor, "b e"]
    anchors: Float[Tensor, "b a 4"]


class Frames(NamedTuple):
    """What the network says of each frame by itself.

    Attributes:
        position_map: (b, 4, n, n).
        features: (b, f) what the identity is told from.
        expression: (b, e).
        pose: (b, 9) regressed rotation 6D, log scale, shift; (b, 0) where it is solved.
        anchors: (b, k, 4) or (b, 0, 4).
    """

    position_map: Float[Tensor, "b 4 n n"]
    features: Float[Tensor, "b f"]
    expression: Float[Tensor, "b e"]
    pose: Float[Tensor, "b p"]
    anchors: Float[Tensor, "b a 4"]


class Glimpse(NamedTuple):
    """What a network says of each frame, the position map not yet put together.

    Attributes:
        anchors: (b, k, 4) or (b, 0, 4).
        change: (b, 4, m, m) the decoder's cells.
        features, expression, pose: as in `Frames`.
    """

    anchors: Float[Tensor, "b a 4"]
    change: Float[Tensor, "b 4 m m"]
    features: Float[Tensor, "b f"]
    expression: Float[Tensor, "b e"]
    pose: Float[Tensor, "b p"]


class PointReader(NamedTuple):
    """Points that the pose is solved from as linear functions of anchors and cells.

    Attributes:
        start: (3, p) half-crops.
        by_anchor: (k, p).
        by_cell: (m * m, p).
    """

    start: Float[Tensor, "3 p"]
    by_anchor: Float[Tensor, "a p"]
    by_cell: Float[Tensor, "c p"]

    def __call__(
        self, anchors: Float[Tensor, "b a 4"], change: Float[Tensor, "b 4 m m"]
    ) -> Float[Tensor, "b p 3"]:
        """(u, v, w) half-crops."""
        flat = self.start + change[:, :3].flatten(2) @ self.by_cell
        if len(self.by_anchor):
            flat = flat + anchors[..., :3].transpose(1, 2) @ self.by_anchor
        return flat.transpose(1, 2)


class PgnNet(nn.Module):
    """See the module's docstring.

    Args:
        config: sizes.
        model: a linear face model whose chart holds its landmarks.
        chart: make the tables of the chart; without, they are zeros of the right size, for a
            network whose weights, tables included, are loaded afterwards.
    """

    def __init__(self, config: PgnConfig, model: FaceModel, chart: bool = True) -> None:
        super().__init__()
        self.config = config
        self.head = CoefficientHead(model)
        sizes = (self.head.landmarks, config.size, config.second_look)
        self.trunk = create_trunk(config.encoder, *sizes)
        as_vector = config.encoder == "mobile"
        cells = (config.widths, config.map_size)
        self.decoder = PositionDecoder(self.trunk.decoded, *cells, from_vector=as_vector)
        tables = _chart_tables if chart else _empty_tables
        for name, table in tables(self.head, model, config, self.trunk.anchors).items():
            self.register_buffer(name, table.contiguous())
        self._store_points()
        read = len(self.get_buffer("pose_ids")) * 3 if config.unposed else 0
        features, hidden = self.trunk.features, config.hidden
        self.mix = nn.Sequential(nn.Linear(features + read, hidden), nn.ReLU(inplace=True))
        self.to_expression = nn.Linear(hidden, self.head.expression_size)
        self.to_identity_features = nn.Sequential(nn.Linear(hidden, 256), nn.ReLU(inplace=True))
        fused = 512 if config.fusion == "both" else 256
        self.to_identity = nn.Sequential(
            nn.Linear(fused, 256), nn.ReLU(inplace=True), nn.Linear(256, self.head.identity_size)
        )
        self.to_pose = nn.Linear(features, 9) if config.pose == "regressed" else None
        self._calm()

    def _store_points(self) -> None:
        """Which points the pose is solved from, and what follows from them."""
        head, size = self.head, self.config.map_size
        rows = head.sets68[head.scored]
        ids = torch.arange(rows.start, rows.stop)
        if self.config.points != 68:
            others = torch.arange(68 * len(head.sets68), head.landmarks)
            ids = torch.cat((ids, others))
        self.register_buffer("pose_ids", ids, persistent=False)
        columns = torch.arange(size * size).view(size, size).flip(1).flatten()
        self.register_buffer("mirror_texels", columns, persistent=False)
        mean = head.get_buffer("mean")[ids]
        self.register_buffer("pose_mean", mean, persistent=False)
        self.register_buffer("to_affine", affine_solver(mean), persistent=False)

    def _calm(self) -> None:
        identity = self.to_identity[-1]
        assert isinstance(identity, nn.Linear)
        with torch.no_grad():
            for layer in (self.to_expression, identity, self.to_pose):
                if layer is not None:
                    layer.weight.mul_(0.1)
                    layer.bias.zero_()
            low = self.head.get_buffer("lowest")
            self.to_expression.bias.copy_(torch.where(low < 0, 0.0, START_EXPRESSION))
            if self.to_pose is not None:
                self.to_pose.bias.copy_(torch.tensor([*START_6D, 0.0, 0.0, 0.0]))

    def forward(
        self, crops: Float[Tensor, "b 3 s s"], person: Int[Tensor, "b"] | None = None
    ) -> PgnOutput:
        """Everything about crops in sRGB [0, 1].

        Args:
            crops: (b, 3, size, size).
            person: (b,) whose frames they are, numbered from 0; None: all different.
        """
        frames = self.frames(crops)
        with torch.autocast(crops.device.type, enabled=False):
            alone = self.identity_of(frames.features)
            identity = alone if person is None else self.identity_of(frames.features, person)
            return self.assemble(frames, identity, alone)

    def frames(self, crops: Float[Tensor, "b 3 s s"]) -> Frames:
        """What each frame says by itself."""
        seen = self.trunk(crops)
        change = self.decoder.cells(seen.decoded)
        with torch.autocast(crops.device.type, enabled=False):
            position_map = self.position_map(seen.anchors, change.float())
            points = self.read_landmarks(position_map)[:, self.get_buffer("pose_ids"), :3]
            rest = self._heads(seen, points)
            return Frames(position_map, *rest, seen.anchors)

    def glimpse(self, crops: Float[Tensor, "b 3 s s"], reader: PointReader) -> Glimpse:
        """The same without the map, which costs more than all the heads; what is exported."""
        seen = self.trunk(crops)
        change = self.decoder.cells(seen.decoded)
        rest = self._heads(seen, reader(seen.anchors, change))
        return Glimpse(seen.anchors, change, *rest)

    def whole(self, glimpse: Glimpse) -> Frames:
        """The frames of a glimpse."""
        position_map = self.position_map(glimpse.anchors, glimpse.change)
        told = (glimpse.features, glimpse.expression, glimpse.pose)
        return Frames(position_map, *told, glimpse.anchors)

    @torch.no_grad()
    def point_reader(self) -> PointReader:
        """How `pose_ids` are read from anchors and cells, by the tables and weights of now."""
        ids, cells = self.get_buffer("pose_ids"), self.decoder.cell_size
        start = self.get_buffer("mean_map").new_zeros(len(ids), 3)
        lift = self.get_buffer("lift").float().T if self.trunk.anchors else None
        if lift is None:
            start = self._read(self.get_buffer("mean_map")[None, :3].float(), "mark")[0, ids]
            by_anchor = start[:, :0]
        else:
            by_anchor = self._read(lift[None], "mark")[0, ids]
        single = torch.eye(cells * cells, device=start.device).view(-1, 1, cells, cells)
        parts = [self._read(self.decoder.spread(x), "mark")[:, ids, 0] for x in single.split(512)]
        return PointReader(start.T.contiguous(), by_anchor.T.contiguous(), torch.cat(parts))

    def _heads(self, seen: Seen, points: Float[Tensor, "b p 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """Identity features, expression and regressed pose."""
        read = [seen.features.float()]
        if self.config.unposed:
            apart = unposed(points, self.get_buffer("pose_mean"), self.get_buffer("to_affine"))
            read.append(functional.hardtanh(apart / UNPOSED_UNIT, -6, 6).flatten(1))
        mixed = self.mix(torch.cat(read, 1))
        low, high = self.head.get_buffer("lowest"), self.head.get_buffer("highest")
        expression = low + (high - low) * self.to_expression(mixed).sigmoid()
        features = self.to_identity_features(mixed)
        pose = features[:, :0] if self.to_pose is None else self.to_pose(read[0])
        return features, expression, pose

    def position_map(
        self, anchors: Float[Tensor, "b a 4"], change: Float[Tensor, "b 4 m m"]
    ) -> Float[Tensor, "b 4 n n"]:
        """The map of the encoder's points, or the mean face's, and the decoder's change to it."""
        decoded = self.decoder.spread(change)
        if not self.trunk.anchors:
            start = self.get_buffer("mean_map")[None]
        else:
            lifted = functional.linear(anchors.transpose(1, 2), self.get_buffer("lift").float())
            start = lifted.unflatten(2, (self.decoder.size, -1))
        log_beta = functional.hardtanh(start[:, 3:] + decoded[:, 3:], *LOG_BETA_RANGE)
        return torch.cat((start[:, :3] + decoded[:, :3], log_beta), 1)

    def read_landmarks(self, position_map: Float[Tensor, "b 4 n n"]) -> Float[Tensor, "b k 4"]:
        """The map's values at the landmarks of the head's label set."""
        return self._read(position_map, "mark")

    def read_vertices(self, position_map: Float[Tensor, "b 4 n n"]) -> Float[Tensor, "b v 4"]:
        """The map's values at all vertices: the mesh without a model; NaN outside the chart."""
        values = self._read(position_map, "skin")
        shown = self.get_buffer("skin_weights").abs().sum(1) > 0
        return torch.where(shown[:, None], values, torch.nan)

    def _read(self, position_map: Tensor, name: str) -> Tensor:
        weights = self.get_buffer(f"{name}_weights").float()  # shipped in half precision
        weights = weights / weights.sum(1, keepdim=True).clamp_min(0.5)
        texels = self.get_buffer(f"{name}_texels").long()
        picked = position_map.flatten(2)[:, :, texels.flatten()].unflatten(2, texels.shape)
        return (picked * weights).sum(-1).transpose(1, 2)

    def identity_of(
        self, features: Float[Tensor, "b f"], person: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b i"]:
        """Identity of each frame's person.

        Args:
            features: of frames.
            person: (b,) numbers from 0; None: every frame by itself.
        """
        fusion = self.config.fusion
        if person is None or fusion == "none":
            person = torch.arange(len(features), device=features.device)
        count = int(person.max()) + 1
        rows = person[:, None].expand_as(features)
        empty = features.new_zeros(count, features.shape[1])
        parts = []
        if fusion in ("both", "mean"):
            frames = torch.bincount(person, minlength=count).clamp_min(1)
            parts.append(empty.scatter_add(0, rows, features) / frames[:, None])
        if fusion in ("both", "max"):
            parts.append(empty.scatter_reduce(0, rows, features, "amax", include_self=False))
        if fusion in ("first", "none"):
            order = torch.arange(len(person), device=person.device)
            first = torch.zeros(count, dtype=torch.long, device=person.device)
            first = first.scatter_reduce(0, person, order, "amin", include_self=False)
            parts.append(features[first])
        return self.to_identity(torch.cat(parts, 1))[person]

    def assemble(
        self, frames: Frames, identity: Float[Tensor, "b i"], alone: Float[Tensor, "b i"]
    ) -> PgnOutput:
        """Shape, pose and posed points of frames whose identity is known."""
        landmarks = self.read_landmarks(frames.position_map)
        shape = self.head.shape(identity, frames.expression)
        pose = self.pose_of(frames, landmarks, shape)
        matrix = pose.scale[:, None, None] * pose.rotation
        points = project_points(shape, matrix, pose.shift)
        return PgnOutput(
            frames.position_map, landmarks, points, matrix, pose.shift, identity, alone,
            frames.expression, frames.anchors,
        )  # fmt: skip

    def pose_of(
        self, frames: Frames, landmarks: Float[Tensor, "b k 4"], shape: Float[Tensor, "b m 3"]
    ) -> HeadPose:
        """Pose of heads: solved from the map's landmarks, or regressed."""
        if self.config.pose == "regressed":
            raw = frames.pose
            scale = CLOSE_CROP * raw[:, 6].exp()
            return HeadPose(rotation_from_6d(raw[:, :6]), scale, raw[:, 7:9])
        ids = self.get_buffer("pose_ids")
        log_beta = landmarks[:, ids, 3] if self.config.weights == "learned" else None
        return solve_pose(shape[:, ids], landmarks[:, ids, :3], log_beta)


def _chart_tables(
    head: CoefficientHead, model: FaceModel, config: PgnConfig, anchors: int
) -> dict[str, Tensor]:
    """Everything about the chart that running the network needs, kept with its weights."""
    size = config.map_size
    chart = create_chart(model, size)
    marks, skin = chart.sampler(model, head.label_set), chart.sampler(model)
    tables = {
        "mark_texels": marks.texels.to(torch.int32),
        "mark_weights": marks.weights,
        "skin_texels": skin.texels.to(torch.int32),
        "skin_weights": torch.nan_to_num(skin.weights),
        "inside": chart.inside.view(size, size).clone(),
        "mean_map": _mean_map(chart.texels(_mean(model)), head, size),
    }
    return tables | ({"lift": map_weights(chart, model, head.label_set)} if anchors else {})


def _empty_tables(
    head: CoefficientHead, model: FaceModel, config: PgnConfig, anchors: int
) -> dict[str, Tensor]:
    """Tables of the same sizes, to be loaded."""
    size, marks, vertices = config.map_size, head.landmarks, len(model.topology.mirror)
    tables = {
        "mark_texels": torch.zeros(marks, 16, dtype=torch.int32),
        "mark_weights": torch.zeros(marks, 16),
        "skin_texels": torch.zeros(vertices, 16, dtype=torch.int32),
        "skin_weights": torch.zeros(vertices, 16),
        "inside": torch.zeros(size, size, dtype=torch.bool),
        "mean_map": torch.zeros(4, size, size),
    }
    return tables | ({"lift": torch.zeros(size * size, marks)} if anchors else {})


def _mean(model: FaceModel) -> Float[Tensor, "v 3"]:
    with torch.no_grad():
        return model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))


def _mean_map(
    texels_mm: Float[Tensor, "t 3"], head: CoefficientHead, size: int
) -> Float[Tensor, "4 n n"]:
    """Position map of the mean face, frontal, filling the nominal crop."""
    points = texels_mm / 100.0 - head.get_buffer("pivot")
    frontal = CLOSE_CROP * points * points.new_tensor([1.0, -1.0, 1.0])
    log_beta = torch.full_like(frontal[:, :1], START_LOG_BETA)
    return torch.cat((frontal, log_beta), 1).T.reshape(4, size, size)
