"""A head's landmarks against the points that a data set's people or programs marked.

A mark is not our landmark: each data set has a learned symmetric 3D offset per landmark that turns
with the head, so that it cannot imitate pose or identity (`nn.parametric.symmetric_offset`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.facemodel.landmarks import convert, flip_table
from lifemask.losses import distance, huber, weighted_mean
from lifemask.methods._targets import SourceRows
from lifemask.nn.landmark_map import REFERENCE_PX
from lifemask.nn.parametric import PosedModel, symmetric_offset

PX = REFERENCE_PX / 2  # px of the reference crop per half-crop
LOOSE_21 = (12, 16, 20)  # ears and chin of AFLW-21
REAL_SETS = {"aflw21": "aflw21", "ytf68": "ict68"}


@dataclass(frozen=True)
class ClickConfig:
    """How far marks are trusted.

    Attributes:
        huber_px: where a distance starts to count linearly, px of a crop of 120 px.
        loose: weight of AFLW's ears and chin.
        jaw: weight of automatic jaw points within `jaw_yaw_deg`; 0 beyond.
        jaw_yaw_deg: see above.
    """

    huber_px: float = 3.0
    loose: float = 0.3
    jaw: float = 0.4
    jaw_yaw_deg: float = 20.0


class Clicks(nn.Module):
    """Huber distances between landmarks and marks; owns the data sets' offsets.

    Real marks are compared with every set of 68 that the head has, each with an offset of its own.

    Args:
        sets68: the head's sets of 68 among the points handed in, by name.
        scored: the one that stands for all where a single one is meant.
        config: trust.
    """

    def __init__(self, sets68: Mapping[str, slice], scored: str, config: ClickConfig) -> None:
        super().__init__()
        self.config = config
        self.sets68 = dict(sets68)
        self.scored = scored
        self.offsets = nn.ParameterDict(
            {
                f"{source}_{name}": nn.Parameter(torch.zeros(len(flip_table(points)), 3))
                for source, points in REAL_SETS.items()
                for name in self.sets68
            }
        )
        loose = torch.ones(21)
        loose[list(LOOSE_21)] = config.loose
        self.register_buffer("loose", loose, persistent=False)
        self.register_buffer("jaw", (torch.arange(68) < 17).float(), persistent=False)
        to_aflw21 = convert(torch.eye(68), scored, "aflw21")
        self.register_buffer("to_aflw21", to_aflw21, persistent=False)
        for source, name in REAL_SETS.items():
            self.register_buffer(f"flip_{source}", flip_table(name).clone(), persistent=False)

    def forward(
        self,
        points: Float[Tensor, "b n d"],
        matrix: Float[Tensor, "b 3 3"],
        target: SourceRows,
        sure: Float[Tensor, "b n"] | None = None,
        huber_px: float | None = None,
    ) -> Float[Tensor, "b"]:
        """Mean Huber distance of visible points in (u, v) per sample, px of a crop of 120 px.

        Args:
            points: landmarks, half-crops; `sets68` are slices of n.
            matrix: scale times rotation of the heads; only offsets and trust depend on it.
            target: marks.
            sure: further weight of each landmark; None: 1.
            huber_px: where a distance starts to count linearly; None: the setting's.
        """
        if sure is None:
            sure = torch.ones_like(points[..., 0])
        wanted = target.points[..., :2]
        if target.source not in REAL_SETS:
            detected = target.labels is None  # renders as wild pictures: 68 found points
            own = self.sets68[self.scored] if detected else slice(wanted.shape[1])
            apart = self.apart(points[:, own, :2], wanted, huber_px)
            return weighted_mean(apart, target.visible * sure[:, own])
        weights = self.trust(matrix, target)
        total = torch.zeros_like(points[:, 0, 0])
        for name, rows in self.sets68.items():
            found, counts = points[:, rows, :2], sure[:, rows]
            if target.source == "aflw21":
                found = self.get_buffer("to_aflw21") @ found
                counts = counts @ self.get_buffer("to_aflw21").T
            found = found + self.offset(target.source, name, matrix)
            total = total + weighted_mean(self.apart(found, wanted, huber_px), weights * counts)
        return total / len(self.sets68)

    def apart(
        self, points: Float[Tensor, "b n d"], target: Tensor, huber_px: float | None = None
    ) -> Float[Tensor, "b n"]:
        """Huber distance of each point, px of a crop of 120 px."""
        return huber(distance(points * PX, target * PX), huber_px or self.config.huber_px)

    def trust(self, matrix: Float[Tensor, "b 3 3"], target: SourceRows) -> Float[Tensor, "b k"]:
        """Visibility, less for loose points, none for the jaw of a turned face."""
        weights = target.visible.to(matrix.dtype)
        if target.source == "aflw21":
            return weights * self.get_buffer("loose")
        forward = matrix[:, :, 2].detach()
        yaw = torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2]))
        frontal = (yaw.abs() <= self.config.jaw_yaw_deg).to(weights.dtype)[:, None]
        jaw = self.get_buffer("jaw")
        return weights * (1 - jaw + jaw * self.config.jaw * frontal)

    def offset(
        self, source: str, name: str, matrix: Float[Tensor, "b 3 3"]
    ) -> Float[Tensor, "b n 2"]:
        """What lies between a data set's marks and our landmarks (u, v), half-crops."""
        flip = self.get_buffer(f"flip_{source}")
        scale = matrix[:, 0].norm(dim=-1)
        nothing = matrix.new_zeros(len(matrix), 0)
        frame = PosedModel(
            nothing[..., None].expand(-1, -1, 3), matrix / scale[:, None, None], scale, nothing,
            nothing,
        )  # fmt: skip
        return symmetric_offset(self.offsets[f"{source}_{name}"], flip, frame)[..., :2]

    def cost(self) -> Float[Tensor, ""]:
        """Mean square of all offsets, 1 at 5 mm."""
        offsets = torch.cat([p.flatten() for p in self.offsets.values()])
        return (offsets * 100).square().mean() / 25
