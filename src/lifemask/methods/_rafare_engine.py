"""What runs RAFaRe's networks: torch, or onnxruntime with their exported graphs.

Files and what they take and give:

    view --NAME.onnx--> features of f_base, features of f_fine, normals
    features, guide, points --NAME.base.onnx, NAME.fine.onnx--> values at the points

Both engines answer for the same crops and points, so that nothing else knows which one runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.methods._rafare_field import FieldFn
from lifemask.nn.sdf import FieldNet, NormalNet, View
from lifemask.nn.shipped import OnnxNetwork

if TYPE_CHECKING:
    from lifemask.methods.rafare import RafareConfig

Level = Literal["base", "fine", "normals"]
FIELDS = ("base", "fine")
VIEW = tuple(View.__dataclass_fields__)
LOOKS = ("base_features", "fine_features", "normals")
"""Outputs of the graph `NAME.onnx`; "normals_back" follows where there is such a network."""
BACK = "normals_back"
ASKS = ("features", *VIEW[1:], "points")
"""Inputs of the graphs of the fields."""


class RafareNet(nn.Module):
    """The three networks, and that of the back's normals where the weights have one.

    Args:
        config: their sizes.
    """

    def __init__(self, config: RafareConfig) -> None:
        super().__init__()
        self.config = config
        self.base = FieldNet(config.base, starts_from_guide=True)
        self.fine = FieldNet(config.fine)
        self.normals = NormalNet(config.normals)
        self.normals_back = None if config.normals_back is None else NormalNet(config.normals_back)


class Answers(NamedTuple):
    """What the networks say of a crop.

    Attributes:
        base: half-crops at points of the cube.
        fine: the fine level's r there; None at the level "base".
        normals: (s, s, 3) unit, camera frame; None below the level "normals".
        normals_back: (s, s, 3) of the back, turned to the viewer; None below that level, and where
            the weights have no network for them.
    """

    base: FieldFn
    fine: FieldFn | None
    normals: Float[Tensor, "s s 3"] | None
    normals_back: Float[Tensor, "s s 3"] | None = None


class SurfaceNetworks(Protocol):
    """The networks, whatever runs them."""

    config: RafareConfig

    def look(self, view: View, level: Level, blind: bool = False) -> Answers:
        """Look at one crop, then answer for points of it.

        Args:
            view: a batch of one.
            level: what is needed.
            blind: the fine level sees a black picture.
        """
        ...


class TorchRafare:
    """The networks in torch, on their device.

    Args:
        network: trained; moved to evaluation mode.
    """

    def __init__(self, network: RafareNet) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config = network.config

    @torch.no_grad()
    def look(self, view: View, level: Level, blind: bool = False) -> Answers:
        """See `SurfaceNetworks.look`."""
        net = self.network
        device = next(net.parameters()).device
        view = View(*(getattr(view, name).to(device) for name in VIEW))
        fine = field_of(net.fine, _dark(view) if blind else view) if level != "base" else None
        maps = []
        for one in (net.normals, net.normals_back) if level == "normals" else ():
            maps.append(None if one is None else one(view)[0].permute(1, 2, 0).cpu())
        return Answers(field_of(net.base, view), fine, *(maps or (None, None)))


class OnnxRafare:
    """The exported graphs of the networks, on the CPU.

    Args:
        name: of the files.
        config: sizes of the networks.
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        AssetError: a graph is missing or damaged.
    """

    def __init__(self, name: str, config: RafareConfig, threads: int = 1) -> None:
        self.config = config
        self._look = OnnxNetwork(f"{name}.onnx", VIEW, threads)
        self._fields = {part: OnnxNetwork(f"{name}.{part}.onnx", ASKS, threads) for part in FIELDS}

    def look(self, view: View, level: Level, blind: bool = False) -> Answers:
        """See `SurfaceNetworks.look`; the level only says what is given back."""
        base, fine, *normals = self._features(view)
        if blind:
            fine = self._features(_dark(view))[1]
        return Answers(
            self._field("base", base, view),
            self._field("fine", fine, view) if level != "base" else None,
            *(found[0].permute(1, 2, 0) if level == "normals" else None for found in normals),
        )

    def _features(self, view: View) -> list[Tensor]:
        given = (getattr(view, name).cpu().float().numpy() for name in VIEW)
        return [torch.from_numpy(found) for found in self._look.outputs(*given)]

    def _field(self, part: str, features: Tensor, view: View) -> FieldFn:
        known = [features, *(getattr(view, name).cpu().float() for name in VIEW[1:])]
        arrays = [array.numpy() for array in known]

        def answer(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
            asked = points.cpu().float()[None].numpy()
            return torch.from_numpy(self._fields[part](*arrays, asked))[0].to(points.device)

        return answer


class LookNet(nn.Module):
    """What the networks see of crops, for export: a `View` to its `outputs`."""

    def __init__(self, net: RafareNet) -> None:
        super().__init__()
        self.net = net

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        return LOOKS if self.net.normals_back is None else (*LOOKS, BACK)

    def forward(
        self, picture: Tensor, guide_depth: Tensor, guide_normals: Tensor, guide_there: Tensor
    ) -> tuple[Tensor, ...]:
        """Last feature maps of both fields, and normals (b, 3, s, s), of the back too if any."""
        view = View(picture, guide_depth, guide_normals, guide_there)
        net = self.net
        said = net.base.encode(view)[-1], net.fine.encode(view)[-1], net.normals(view)
        return said if net.normals_back is None else (*said, net.normals_back(view))


class AskNet(nn.Module):
    """A field's answer for points, for export: `ASKS` to values (b, n)."""

    def __init__(self, field: FieldNet) -> None:
        super().__init__()
        self.field = field

    def forward(
        self,
        features: Tensor,
        guide_depth: Tensor,
        guide_normals: Tensor,
        guide_there: Tensor,
        points: Tensor,
    ) -> Tensor:
        """Values at points (b, n, 3) of the cube."""
        picture = torch.cat((guide_depth, guide_normals), 1)  # of its shape; nobody looks at it
        view = View(picture, guide_depth, guide_normals, guide_there)
        return self.field.query(features, view, points)


def field_of(network: FieldNet, view: View) -> FieldFn:
    """A network's answer for points (n, 3) of the one crop of a view."""
    features = network.encode(view)[-1]

    def answer(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        there = points.to(features)
        return network.query(features, view, there[None])[0].float().to(points.device)

    return answer


def _dark(view: View) -> View:
    return replace(view, picture=torch.zeros_like(view.picture))
