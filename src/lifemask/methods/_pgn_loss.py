"""What PGN learns from: labelled maps, landmarks of any kind, and frames of one person.

    labelled: L_pgn3d, L_l, L_param    2D points: L_pgn2d, L_l    pairs: L_p, L_f, L_s    all: L_reg

Formulas and weights: docs/methods/pgn.md. Distances in px of a crop of 120 px where not said.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.chart import create_chart
from lifemask.losses import distance, gaussian_prior, huber, weighted_mean
from lifemask.methods._clicks import PX, ClickConfig, Clicks
from lifemask.methods._coefficients import CoefficientHead
from lifemask.methods._pgn_net import PgnNet, PgnOutput
from lifemask.methods._pgn_pairs import PairConfig, PairTerms
from lifemask.methods._pgn_swap import PosedFrames
from lifemask.methods._pgn_types import CropCamera, PgnBatch
from lifemask.methods._targets import HeadLabels, SourceRows
from lifemask.nn.parametric import LENGTH_MM

SURE_RANGE = (0.2, 5.0)  # of a landmark's weight against the mean landmark's


@dataclass(frozen=True)
class PgnLossConfig:
    """Terms and their weights; 0 switches a term off.

    Attributes:
        pgn3d: the position map against the true one, and its beta.
        pgn2d: the map's landmarks against 2D points.
        anchors: the mobile encoder's own points, from which its map starts, as both above.
        landmarks: the posed model's landmarks against 3D truth, or 2D points and the map's own.
        param: identity and expression against the truth.
        reg: coefficients near the mean, everywhere.
        prior: the same where nothing but points in a photo is known: `mean a^2 + 2 mean b`, in
            proportion as in the landmark fit. Without it identities of photos run away.
        offset: learned offsets between a data set's clicks and our landmarks are small.
        pairs: the terms that compare two frames of one person.
        ramp: shares of the steps between which the pairs' terms grow from 0 to their weights.
        most_pairs: pairs compared per step and process, both ways; the first ones of the batch.
        huber_px: where a distance of the posed model starts to count linearly.
        map_huber_px: the same of the map's landmarks and of the anchors; small, for an L1 loss.
    """

    pgn3d: float = 1.0
    pgn2d: float = 1.0
    anchors: float = 0.5
    landmarks: float = 1.0
    param: float = 0.1
    reg: float = 1e-3
    prior: float = 0.3
    offset: float = 0.2
    pairs: PairConfig = field(default_factory=PairConfig)
    ramp: tuple[float, float] = (0.3, 0.5)
    most_pairs: int = 8
    huber_px: float = 3.0
    map_huber_px: float = 0.5


class PgnLoss(nn.Module):
    """Weighted sum of all terms; owns the data sets' learned offsets.

    Args:
        network: its head and chart are copied.
        model: the face model.
        config: weights.
        parser: logits of the regions of crops, frozen; None leaves L_s out.
    """

    def __init__(
        self,
        network: PgnNet,
        model: FaceModel,
        config: PgnLossConfig,
        parser: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.head = copy.deepcopy(network.head)
        self.mobile = bool(network.trunk.anchors)
        self.clicks = Clicks(self.head.sets68, self.head.scored, ClickConfig(config.huber_px))
        self.texels = TexelModel(model, self.head, network.config.map_size)
        self.pairs = PairTerms(config.pairs, parser)
        self.skin = SkinModel(model, self.head)

    def forward(
        self, output: PgnOutput, batch: PgnBatch, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (scalar) and its weighted parts by name, detached.

        Args:
            output: of the network.
            batch: what it saw.
            progress: share of the steps that are done.
        """
        sums: dict[str, Tensor] = {}
        cameras = iter(batch.cameras)
        for target in batch.targets:
            part = _rows(output, target.rows)
            if target.labels is not None:
                terms = self._labelled_terms(part, target, target.labels, next(cameras))
            else:
                terms = self._marked_terms(part, target)
            for name, values in terms.items():
                share = values.sum() / len(batch.crops)
                sums[name] = sums[name] + share if name in sums else share
        parts = {
            **sums,
            "reg": gaussian_prior(output.identity).mean() + 0.1 * output.expression.abs().mean(),
            "offset": self.clicks.cost(),
        }
        weighted = {k: getattr(self.config, k) * v for k, v in parts.items()}
        weighted = {k: v for k, v in weighted.items() if getattr(self.config, k)}
        weighted |= self._pair_terms(output, batch, progress)
        total = torch.stack(list(weighted.values())).sum()
        return total, {k: v.detach() for k, v in weighted.items()}

    def _labelled_terms(
        self,
        part: PgnOutput,
        target: SourceRows,
        labels: HeadLabels,
        camera: CropCamera,
    ) -> dict[str, Tensor]:
        config = self.config
        terms: dict[str, Tensor] = {}
        if config.pgn3d:
            true = camera.project(self.texels(labels.identity, labels.expression))
            terms["pgn3d"] = self.map_error(part.position_map, true)
        if config.anchors and self.mobile:
            terms["anchors"] = _laplace(part.anchors, _centred(target.points))
        if config.landmarks:
            terms["landmarks"] = self.landmarks3d(part.points, target.points)
        if config.param:
            terms["param"] = self.param(part, labels)
        return terms

    def _marked_terms(self, part: PgnOutput, target: SourceRows) -> dict[str, Tensor]:
        config, found, anchors = self.config, part.landmarks, part.anchors
        terms: dict[str, Tensor] = {}
        if config.pgn2d:
            terms["pgn2d"] = self.on_map(found, part.matrix, target)
        if config.anchors and self.mobile:
            terms["anchors"] = config.pgn2d * self.on_map(anchors, part.matrix, target)
        if config.landmarks:
            marked = self.clicks(part.points, part.matrix, target)
            terms["landmarks"] = marked + self.to_map(part.points, found)
        if config.prior:
            terms["prior"] = gaussian_prior(part.identity) + 2 * part.expression.abs().mean(1)
        return terms

    def on_map(
        self, found: Float[Tensor, "b k 4"], matrix: Float[Tensor, "b 3 3"], target: SourceRows
    ) -> Float[Tensor, "b"]:
        """L_pgn2d per sample: Huber distance of visible landmarks, the sure ones above all."""
        sure = _sure(found[..., 3])
        return self.clicks(found, matrix, target, sure, self.config.map_huber_px)

    def map_error(
        self, position_map: Float[Tensor, "b 4 n n"], true: Float[Tensor, "b t 3"]
    ) -> Float[Tensor, "b"]:
        """L_pgn3d per sample: `mean (l1(P - P*) / e^beta + 3 beta)` over the face's texels.

        The mean of w over the face is taken out of both.
        """
        inside = self.texels.get_buffer("inside")
        found = position_map.flatten(2).transpose(1, 2)[:, inside]
        return _laplace(found, _centred(true[:, inside]))

    def landmarks3d(
        self, points: Float[Tensor, "b m 3"], true: Float[Tensor, "b k 3"]
    ) -> Float[Tensor, "b"]:
        """L_l of renders per sample: Huber distance in (u, v, w), the mean of w taken out."""
        own = _centred(points[:, : true.shape[1]])
        return huber(distance(own * PX, _centred(true) * PX), self.config.huber_px).mean(1)

    def to_map(
        self, points: Float[Tensor, "b m 3"], found: Float[Tensor, "b k 4"]
    ) -> Float[Tensor, "b"]:
        """L_l without 3D truth per sample: the same to the map's landmarks, which stay put."""
        found = found.detach()
        own, wanted = _centred(points[:, : found.shape[1]]), _centred(found[..., :3])
        apart = huber(distance(own * PX, wanted * PX), self.config.huber_px)
        return weighted_mean(apart, _sure(found[..., 3]))

    def param(self, part: PgnOutput, labels: HeadLabels) -> Float[Tensor, "b"]:
        """L_param per sample; the identity of the frame by itself counts as the person's does."""
        identity = [(a - labels.identity).square().mean(1) for a in (part.identity, part.alone)]
        return sum(identity) / 2 + (part.expression - labels.expression).square().mean(1)

    def _pair_terms(self, output: PgnOutput, batch: PgnBatch, progress: float) -> dict[str, Tensor]:
        """L_p, L_f and L_s of some pairs, both ways."""
        first, last = self.config.ramp
        grown = min(max((progress - first) / max(last - first, 1e-9), 0.0), 1.0)
        pairs = batch.pairs[: self.config.most_pairs]
        if not grown or not len(pairs) or not self.pairs.active:
            return {}
        both = torch.cat((pairs, pairs.flip(1)))
        source, target = (self._posed(output, batch, rows) for rows in both.unbind(1))
        faces, counted = self.skin.get_buffer("faces"), self.skin.get_buffer("counted")
        terms = self.pairs(source, target, faces, counted)
        return {name: grown * value for name, value in terms.items()}

    def _posed(self, output: PgnOutput, batch: PgnBatch, rows: Int[Tensor, "p"]) -> PosedFrames:
        matrix, shift = output.matrix[rows], output.shift[rows]
        shape = self.skin(output.identity[rows], output.expression[rows])
        turned = shape @ matrix.transpose(1, 2)
        flip = turned.new_tensor([1.0, -1.0, 1.0])
        vertices = turned * flip + torch.nn.functional.pad(shift, (0, 1))[:, None]
        per_mm = matrix[:, 0].norm(dim=-1) / LENGTH_MM
        return PosedFrames(vertices, batch.crops[rows], per_mm)


class SkinModel(nn.Module):
    """All vertices about the pivot in 100 mm, and the faces that can be seen; buffers only."""

    def __init__(self, model: FaceModel, head: CoefficientHead) -> None:
        super().__init__()
        mean, basis = _mean_and_basis(model)
        self.head = head
        self.register_buffer("mean", mean / LENGTH_MM - head.get_buffer("pivot"), persistent=False)
        self.register_buffer("basis", (basis / LENGTH_MM).flatten(1), persistent=False)
        topology = model.topology
        everything = torch.ones(len(topology.mirror), dtype=torch.bool)
        counted = topology.regions.get("face", everything)
        self.register_buffer("faces", topology.faces, persistent=False)
        self.register_buffer("counted", counted, persistent=False)

    def forward(
        self, identity: Float[Tensor, "b i"], expression: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b v 3"]:
        """Vertices of heads."""
        active = torch.cat((identity, expression * self.head.gains(identity)), 1)
        mean = self.get_buffer("mean")
        return mean + (active @ self.get_buffer("basis")).view(-1, *mean.shape)


class TexelModel(nn.Module):
    """The chart's texels of a face model in mm, from coefficients; buffers only."""

    def __init__(self, model: FaceModel, head: CoefficientHead, size: int) -> None:
        super().__init__()
        chart = create_chart(model, size)
        mean, basis = _mean_and_basis(model)
        self.head = head
        self.register_buffer("mean", chart.texels(mean), persistent=False)
        self.register_buffer("basis", chart.texels(basis).flatten(1), persistent=False)
        self.register_buffer("inside", chart.inside, persistent=False)

    def forward(
        self, identity: Float[Tensor, "b i"], expression: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b t 3"]:
        """Points (b, t, 3) of all texels, model frame."""
        active = torch.cat((identity, expression * self.head.gains(identity)), 1)
        mean = self.get_buffer("mean")
        return mean + (active @ self.get_buffer("basis")).view(-1, *mean.shape)


def _mean_and_basis(model: FaceModel) -> tuple[Tensor, Tensor]:
    """Vertices (v, 3) and their change (i + e, v, 3) per unit coefficient, mm."""
    i, e = model.identity_size, len(model.expression_names)
    with torch.no_grad():
        mean = model(torch.zeros(i), torch.zeros(e))
        basis = torch.stack([model(x[:i], x[i:]) - mean for x in torch.eye(i + e)])
    return mean, basis


def _laplace(found: Float[Tensor, "b n 4"], true: Float[Tensor, "b n 3"]) -> Float[Tensor, "b"]:
    """Laplace likelihood `mean (l1 / e^beta + 3 beta)` of points whose mean w is 0."""
    apart = (_centred(found[..., :3]) - true).abs().sum(-1)
    log_beta = found[..., 3]
    return (apart * (-log_beta).exp() + 3 * log_beta).mean(1)


def _centred(points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
    """Points with the mean of w taken out."""
    nearness = points[..., 2:]
    return torch.cat((points[..., :2], nearness - nearness.mean(1, keepdim=True)), -1)


def _sure(log_beta: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Weights `exp(-beta)` against the mean landmark's, without gradient."""
    sure = (-log_beta.detach()).exp()
    return (sure / sure.mean(1, keepdim=True)).clamp(*SURE_RANGE)


def _rows(output: PgnOutput, rows: slice) -> PgnOutput:
    return PgnOutput(*(part[rows] for part in output))
