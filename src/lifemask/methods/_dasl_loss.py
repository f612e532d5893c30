"""What 2DASL learns: weighted coefficients, and the four self-supervision schemes.

    labelled: L_coef(p, p*)    L_2d(X2d, Y2d)    L_3d(X3d, X^3d)    L_cyc(X2d, X^2d)    L_reg
    critic C(I, p): real = (J, p*) labelled; fake = (I, p) unlabelled, (J, p* of another), (J, p)

Formulas and weights: docs/methods/dasl.md. Lengths in px of a crop of 120 px.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.losses import distance, gaussian_prior
from lifemask.methods._clicks import PX, ClickConfig, Clicks
from lifemask.methods._coefficients import CoefficientHead, Posed
from lifemask.methods._dasl_wpdc import Importance
from lifemask.methods._targets import HeadLabels, SourceRows
from lifemask.nn.critic import Critic


@dataclass(frozen=True)
class DaslLossConfig:
    """Terms and their weights; 0 switches a term off.

    Attributes:
        coef: how coefficients are compared: "wpdc" weighs each by what it moves, "mse" all alike,
            "vertex" compares what they do to the points.
        coefficients: weight of that comparison.
        l2d: 2D-landmark consistency of the first pass.
        l3d: 3D-landmark consistency between the passes.
        cyc: 2D-landmark consistency of the second pass, which sees the first one's map.
        critic: self-critic, for the regressor; the critic itself learns whenever this is not 0.
        wild_fakes: weight, in the critic's own loss, of what the network says of photos; the other
            fakes, on labelled images, weigh 1 each. Where photos look unlike renders a critic can
            tell these fakes by the look alone.
        reg: coefficients near the mean, expressions within their range.
        offset: learned offsets between a data set's clicks and our landmarks are small.
        huber_px: where a distance starts to count linearly.
        loose: weight of AFLW's ears and chin.
        jaw: weight of automatic jaw points within `jaw_yaw_deg`; 0 beyond.
        jaw_yaw_deg: see above.
    """

    coef: Literal["wpdc", "mse", "vertex"] = "wpdc"
    coefficients: float = 5.0
    l2d: float = 0.05
    l3d: float = 0.02
    cyc: float = 0.02
    critic: float = 0.01
    wild_fakes: float = 1.0
    reg: float = 1e-3
    offset: float = 0.2
    huber_px: float = 3.0
    loose: float = 0.3
    jaw: float = 0.4
    jaw_yaw_deg: float = 20.0


@dataclass(frozen=True)
class TwoPasses:
    """What the network says of a batch, first with the given map, then with its own.

    Attributes:
        crops: (b, 3, s, s) normalised; what the critic sees.
        p: (b, D) whitened coefficients of the first pass.
        posed: its heads.
        p_hat: of the second pass.
        posed_hat: its heads.
    """

    crops: Float[Tensor, "b 3 s s"]
    p: Float[Tensor, "b d"]
    posed: Posed
    p_hat: Float[Tensor, "b d"]
    posed_hat: Posed


class DaslLoss(nn.Module):
    """Weighted sum of all terms; owns the critic and the data sets' learned offsets.

    Real points are compared with every 68 set of the head, see `methods._clicks`.

    Args:
        head: the coefficients' meaning, whitening included; copied.
        config: weights.
        critic: judges (image, coefficients); None leaves the self-critic out.
    """

    def __init__(
        self, head: CoefficientHead, config: DaslLossConfig, critic: Critic | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.head = copy.deepcopy(head)
        self.importance = Importance(self.head)
        self.critic = critic if config.critic else None
        click = ClickConfig(config.huber_px, config.loose, config.jaw, config.jaw_yaw_deg)
        self.clicks = Clicks(self.head.sets68, self.head.scored, click)

    def forward(
        self, passes: TwoPasses, targets: list[SourceRows]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (scalar) and its weighted parts by name, detached.

        The part "judge" is the critic's own loss: its gradient reaches the critic alone, as that
        of "critic" reaches the regressor alone.
        """
        count = len(passes.p)
        sums: dict[str, Tensor] = {}
        for rows in targets:
            for name, values in self._source_terms(passes, rows).items():
                share = values.sum() / count
                sums[name] = sums[name] + share if name in sums else share
        parts = {
            **sums,
            "l3d": self.l3d(passes.posed, passes.posed_hat).mean(),
            "reg": self.reg(passes.posed).mean(),
            "offset": self.clicks.cost(),
        }
        weighted = {k: self._weight(k) * v for k, v in parts.items() if self._weight(k)}
        weighted |= self._critic_terms(passes, targets)
        total = torch.stack(list(weighted.values())).sum()
        return total, {k: v.detach() for k, v in weighted.items()}

    def _weight(self, name: str) -> float:
        return getattr(self.config, name)

    def _source_terms(self, passes: TwoPasses, rows: SourceRows) -> dict[str, Tensor]:
        """Terms that need labels or points, one value per row."""
        terms: dict[str, Tensor] = {}
        here = rows.rows
        if self.config.l2d:
            terms["l2d"] = self.l2d(_rows(passes.posed, here), rows)
        if self.config.cyc:
            terms["cyc"] = self.l2d(_rows(passes.posed_hat, here), rows)
        if rows.labels is not None and self.config.coefficients:
            terms["coefficients"] = self.coefficients(passes.p[here], rows.labels)
        return terms

    def coefficients(self, p: Float[Tensor, "b d"], labels: HeadLabels) -> Float[Tensor, "b"]:
        """L_coef per sample: `mean_i w_i (p_i - p*_i)^2`, or the mean distance in px / 20."""
        true = self.head.pack(labels)
        if self.config.coef == "vertex":
            found, wanted = (self.head(x).points for x in (p, self.head.whitened(true)))
            ids = self.importance.get_buffer("ids")
            return distance(found[:, ids] * PX, wanted[:, ids] * PX).mean(1) / 20
        square = (p - self.head.whitened(true)).square()
        if self.config.coef == "wpdc":
            square = self.importance(self.head, self.head.raw(p.detach()), true) * square
        return square.mean(1)

    def l2d(self, posed: Posed, target: SourceRows) -> Float[Tensor, "b"]:
        """L_2d (or L_cyc, of the second pass) per sample: Huber distance of visible points, px."""
        return self.clicks(posed.points, posed.matrix, target)

    def l3d(self, posed: Posed, posed_hat: Posed) -> Float[Tensor, "b"]:
        """L_3d per sample: Huber distance in (u, v, w) between the passes, px."""
        return self.clicks.apart(posed.points, posed_hat.points).mean(1)

    def reg(self, posed: Posed) -> Float[Tensor, "b"]:
        """L_reg per sample: `mean a^2 + mean(relu(low - b) + relu(b - high))`, mostly [0, 1].

        A signed expression, as BFM has them, counts like an identity: `(b / deviation)^2`.
        """
        low, high = self.head.get_buffer("lowest"), self.head.get_buffer("highest")
        b = posed.expression
        outside = torch.relu(low - b) + torch.relu(b - high)
        each = torch.where(low < 0, (b * 3 / high).square(), outside)
        return gaussian_prior(posed.identity) + each.sum(-1) / max(b.shape[-1], 1)

    def _critic_terms(self, passes: TwoPasses, targets: list[SourceRows]) -> dict[str, Tensor]:
        """L_sc for the regressor and the critic's own loss."""
        if self.critic is None:
            return {}
        labelled = [rows for rows in targets if rows.labels is not None]
        wild = [rows for rows in targets if rows.labels is None]
        if not labelled or not wild:
            return {}
        crops, p = passes.crops, passes.p
        seen = torch.cat([crops[rows.rows] for rows in wild])
        said = torch.cat([p[rows.rows] for rows in wild])
        with frozen(self.critic):
            fooled = functional.softplus(-self.critic(seen, said)).mean()
        known = torch.cat([crops[rows.rows] for rows in labelled])
        true = torch.cat(
            [self.head.whitened(self.head.pack(r.labels)) for r in labelled if r.labels]
        )
        guessed = torch.cat([p[rows.rows] for rows in labelled])
        judge = self.judge(known, true, guessed, seen, said)
        return {"critic": self.config.critic * fooled, "judge": self.config.critic * judge}

    def judge(
        self, known: Tensor, true: Tensor, guessed: Tensor, seen: Tensor, said: Tensor
    ) -> Tensor:
        """The critic's loss (scalar): true pairs against those of photos, strangers and guesses.

        The last two are fakes on the labelled images themselves, so that the critic cannot judge
        by the look of an image.
        """
        assert self.critic is not None
        crops = (known, seen, known, known)
        pairs = (true, said.detach(), true.roll(1, 0), guessed.detach())
        # one pass: normalising the critic's weights costs as much as judging a few faces
        logits = self.critic(torch.cat(crops), torch.cat(pairs))
        real, *fakes = logits.split([len(p) for p in pairs])
        weights = (self.config.wild_fakes, 1.0, 1.0)
        costs = [functional.softplus(fake).mean() for fake in fakes]
        fooled = sum(w * c for w, c in zip(weights, costs, strict=True)) / sum(weights)
        return functional.softplus(-real).mean() + fooled


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block the module's parameters take no gradient; its inputs do."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def _rows(posed: Posed, rows: slice) -> Posed:
    return Posed(*(part[rows] for part in posed))
