"""What the landmark network learns from each source of crops."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lifemask.facemodel.landmarks import convert, flip_table
from lifemask.losses import (
    distance,
    gaussian_prior,
    laplace_nll,
    outside_unit_interval,
    weighted_mean,
)
from lifemask.nn.landmark_net import LandmarkOutput
from lifemask.nn.parametric import LandmarkModel, PosedModel, symmetric_offset
from lifemask.training.recipes import LandmarkLossConfig

LOOSE_21 = (12, 16, 20)  # ears and chin of AFLW-21
REAL_SETS = {"aflw21": "aflw21", "ytf68": "ict68"}
BOTH_68 = ("ict68", "ibug68-3d-bfm")


@dataclass(frozen=True)
class SourceBatch:
    """Targets of the part of a batch that comes from one source; lengths in half-crops.

    Attributes:
        source: "renders", "aflw21" or "ytf68".
        rows: which rows of the batch, a contiguous range.
        points: (r, k, 2 or 3) in the source's landmark set.
        visible: (r, k) labelled points; all of a render's.
    """

    source: str
    rows: slice
    points: Float[Tensor, "r k d"]
    visible: Bool[Tensor, "r k"]


class LandmarkLoss(nn.Module):
    """Weighted sum of all terms; owns the datasets' learned offsets.

    A data set's points are compared with both 68 sets of the prediction, each with an offset of
    its own: `reduce(prediction) + offset`. The offset is a symmetric 3D vector per landmark that
    turns with the head (`nn.parametric.symmetric_offset`), so it cannot imitate pose or identity.

    Args:
        model: landmarks of the face model.
        config: weights.
    """

    def __init__(self, model: LandmarkModel, config: LandmarkLossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        sizes = {"aflw21": 21, "ytf68": 68}
        self.offsets = nn.ParameterDict(
            {
                f"{source}_{k}": nn.Parameter(torch.zeros(n, 3))
                for source, n in sizes.items()
                for k in range(2)
            }
        )
        # On the network's device from the start: made anew at each step, a GPU would wait for them.
        loose = torch.ones(21)
        loose[list(LOOSE_21)] = config.loose
        self.register_buffer("loose", loose, persistent=False)
        self.register_buffer("jaw", (torch.arange(68) < 17).float(), persistent=False)
        to_aflw21 = convert(torch.eye(68), "ict68", "aflw21")  # alike for both 68 sets
        self.register_buffer("to_aflw21", to_aflw21, persistent=False)
        for source, name in REAL_SETS.items():
            self.register_buffer(f"flip_{source}", flip_table(name).clone(), persistent=False)

    def forward(
        self, output: LandmarkOutput, batches: list[SourceBatch], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (scalar) and its weighted parts by name, detached."""
        posed = self.model(output.parameters)
        parts: dict[str, Tensor] = {}
        count = len(output.points)
        for batch in batches:
            for name, value in self._source_terms(output, posed, batch, step).items():
                share = value.sum() / count
                parts[name] = parts[name] + share if name in parts else share
        parts |= self._shared_terms(output, posed)
        weighted = {k: getattr(self.config, k) * v for k, v in parts.items()}
        total = torch.stack(list(weighted.values())).sum()
        return total, {k: v.detach() for k, v in weighted.items()}

    def _shared_terms(self, output: LandmarkOutput, posed: PosedModel) -> dict[str, Tensor]:
        apart = distance(output.points, posed.points).mean(1) / self.config.unit
        offsets = torch.cat([p.flatten() for p in self.offsets.values()])
        return {
            "consistency": apart.mean(),
            "identity": gaussian_prior(posed.identity).mean(),
            "expression": outside_unit_interval(posed.expression).mean(),
            "offset": (offsets * 100).square().mean() / 25,  # (offset / 5 mm)^2
        }

    def _source_terms(
        self, output: LandmarkOutput, posed: PosedModel, batch: SourceBatch, step: int
    ) -> dict[str, Tensor]:
        rows, unit = batch.rows, self.config.unit
        log_b = output.log_b[rows]
        direct, modelled, maps = output.points[rows], posed.points[rows], output.maps[rows]
        joined = step >= self.config.nll_from
        if batch.source == "renders":
            flat = distance(direct[..., :2], batch.points[..., :2])
            near = batch.points[..., 2] - batch.points[..., 2].mean(1, keepdim=True)
            terms = {
                "point": flat.mean(1) / unit,
                "nearness": (direct[..., 2] - near).abs().mean(1) / unit,
                "maps": distance(maps, batch.points[..., :2]).mean(1) / unit,
                "model": distance(
                    modelled, torch.cat((batch.points[..., :2], near[..., None]), -1)
                ).mean(1)
                / unit,
            }
            if joined:
                terms["nll"] = laplace_nll(flat, log_b).mean(1)
            return terms
        here = PosedModel(
            modelled, posed.rotation[rows], posed.scale[rows], posed.identity, posed.expression
        )
        weights = self._weights(batch, here)
        terms: dict[str, Tensor] = {}
        for k in range(len(BOTH_68)):
            shift = self._offset(batch.source, k, here)
            flat = distance(self._reduce(direct, k, batch.source) + shift, batch.points)
            self._add(terms, "point", weighted_mean(flat, weights) / unit / 2)
            on_maps = distance(self._reduce(maps, k, batch.source) + shift, batch.points)
            self._add(terms, "maps", weighted_mean(on_maps, weights) / unit / 2)
            by_model = distance(self._reduce(modelled, k, batch.source) + shift, batch.points)
            self._add(terms, "model", weighted_mean(by_model, weights) / unit / 2)
            if joined:
                spread = self._reduce(log_b[..., None], k, batch.source)[..., 0]
                self._add(terms, "nll", weighted_mean(laplace_nll(flat, spread), weights) / 2)
        return terms

    def _add(self, terms: dict[str, Tensor], name: str, value: Tensor) -> None:
        terms[name] = terms[name] + value if name in terms else value

    def _offset(self, source: str, k: int, posed: PosedModel) -> Tensor:
        flip = self.get_buffer(f"flip_{source}")
        return symmetric_offset(self.offsets[f"{source}_{k}"], flip, posed)[..., :2]

    def _reduce(self, points: Tensor, k: int, source: str) -> Tensor:
        """The k-th 68 set of a prediction in the source's landmark set; (u, v) only."""
        chosen = points[:, 68 * k : 68 * (k + 1), :2]
        return self.get_buffer("to_aflw21") @ chosen if source == "aflw21" else chosen

    def _weights(self, batch: SourceBatch, posed: PosedModel) -> Tensor:
        weights = batch.visible.to(posed.points.dtype)
        if batch.source == "aflw21":
            return weights * self.get_buffer("loose")
        forward = posed.rotation[..., :, 2].detach()
        yaw = torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2]))
        frontal = (yaw.abs() <= self.config.jaw_yaw_deg).to(weights.dtype)[:, None]
        jaw = self.get_buffer("jaw")
        return weights * (1 - jaw + jaw * self.config.jaw * frontal)
