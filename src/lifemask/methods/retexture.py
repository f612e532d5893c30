"""Method 3: a complete, light-free albedo and detailed light from one photo (arXiv 2111.08282).

The photo is read on the face's map, a network says albedo and light there, and the head's texture
is made of its albedo, of the photo's finer detail, and of what completes ears, scalp and neck. It
dresses the geometry of any method. `docs/methods/retexture.md` has the formulas and the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.graphics.uv import unwrap
from lifemask.methods._retexture_chart import TextureChart, create_texture_chart, view_chart
from lifemask.methods._retexture_finish import FinishConfig, dressed
from lifemask.methods._retexture_light import light_from_vector, vector_from_light
from lifemask.methods._retexture_loss import RetextureLoss, RetextureLossConfig, render_all
from lifemask.methods._retexture_net import RetextureConfig, RetextureInputs, RetextureNet
from lifemask.methods._retexture_prior import load_prior
from lifemask.methods._retexture_types import RetextureBatch, RetextureInput, RetextureOutput
from lifemask.methods._texture_complete import without_hidden
from lifemask.methods._texture_layout import mean_head, texture_layout
from lifemask.nn.shipped import (
    Engine,
    OnnxNetwork,
    check_engine,
    described,
    family_name,
    with_weights,
)
from lifemask.types import Appearance, Geometry

__all__ = [
    "RetextureBatch", "RetextureConfig", "RetextureInput", "RetextureInputs", "RetextureLoss",
    "RetextureLossConfig", "RetextureNet", "RetextureOutput", "RetexturePredictConfig",
    "Retexturer", "create_retexture", "light_from_vector", "load_retexturer", "render_all",
    "vector_from_light",
]  # fmt: skip
NOISE_SEED = 20211116


@dataclass(frozen=True)
class RetexturePredictConfig:
    """How a head is dressed.

    Attributes:
        finish: size of the texture, detail, and what completes it.
        weights: folder-less name of other weights than the shipped ones, for trials; "" for them.
    """

    finish: FinishConfig = FinishConfig()
    weights: str = ""


def create_retexture(config: RetextureConfig, model: FaceModel) -> RetextureNet:
    """An untrained network for a face model.

    Raises:
        UserError: the prior's file is missing.
        ValueError: the model has no texture coordinates.
    """
    chart = create_texture_chart(model, config.size)
    return RetextureNet(config, load_prior(config.prior, config.size, model), chart.inside)


class ExportNet(nn.Module):
    """A trained `RetextureNet` with one tensor for each input and output, for export."""

    def __init__(self, net: RetextureNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, texture: Tensor, visible: Tensor, normals: Tensor, noise: Tensor
    ) -> tuple[Tensor, ...]:
        """The parts of a `RetextureOutput` from those of a `RetextureInput`."""
        return tuple(self.net(RetextureInput(texture, visible, normals, noise)))


class MapNetwork(Protocol):
    """What the dresser needs of a network, whatever runs it."""

    config: RetextureConfig

    def __call__(self, seen: RetextureInput, /) -> RetextureOutput:
        """Albedo and light of a batch."""
        ...


class OnnxRetexture:
    """The exported graph of a `RetextureNet`.

    Args:
        network: the graph.
        config: sizes of the network.
    """

    def __init__(self, network: OnnxNetwork, config: RetextureConfig) -> None:
        self._network = network
        self.config = config

    def __call__(self, seen: RetextureInput) -> RetextureOutput:
        """Albedo and light of a batch, on the CPU."""
        given = (part.cpu().float().numpy() for part in seen)
        return RetextureOutput(*map(torch.from_numpy, self._network.outputs(*given)))


class Retexturer:
    """Dresses heads with a trained network.

    Args:
        network: trained, in torch (moved to evaluation mode) or its exported graph.
        model: the face model whose map it was trained on.
        config: how a head is dressed.
    """

    def __init__(
        self,
        network: RetextureNet | MapNetwork,
        model: FaceModel,
        config: RetexturePredictConfig | None = None,
    ) -> None:
        if isinstance(network, nn.Module):
            network = network.eval().requires_grad_(False)
        self.network = network
        self.model = model
        self.config = config or RetexturePredictConfig()

    @property
    def chart(self) -> TextureChart:
        """The map that the network works on."""
        return create_texture_chart(self.model, self.network.config.size)

    @torch.no_grad()
    def explain(
        self, image: Float[Tensor, "3 h w"], geometry: Geometry, regions: Regions | None = None
    ) -> tuple[RetextureInput, RetextureOutput]:
        """What the network sees of a photo and what it says, on the map, a batch of one each.

        Args:
            image: (3, h, w) sRGB in [0, 1].
            geometry: posed head with the model's topology, camera to the image's px.
            regions: region maps in the image's px.
        """
        vertices = geometry.vertices_mm.float().cpu()
        view = view_chart(image.float().cpu(), vertices, geometry.camera, self.chart, regions)
        seen = RetextureInput(
            view.texture[None], view.visible[None, None], view.normals[None],
            fixed_noise(self.network.config.size)[None],
        )  # fmt: skip
        return seen, self.network(seen)

    @torch.no_grad()
    def __call__(
        self, image: Float[Tensor, "3 h w"], geometry: Geometry, regions: Regions | None = None
    ) -> Appearance:
        """A complete, light-free texture of the head in a photo, and the photo's light.

        The same photo and geometry give the same texture: what fills holes is fixed.

        Args:
            image: (3, h, w) sRGB in [0, 1].
            geometry: posed head with the model's topology, camera to the image's px.
            regions: region maps in the image's px: hair, hands and cloth are left out. None: the
                photo counts wherever the head is not in its own way.

        Raises:
            ValueError: the geometry does not have the model's vertices.
        """
        model, finish = self.model, self.config.finish
        if len(geometry.vertices_mm) != len(mean_head(model)):
            raise ValueError(
                f"the geometry has {len(geometry.vertices_mm)} vertices, {model.name} "
                f"{len(mean_head(model))}: a texture needs the model's topology"
            )
        seen, said = self.explain(image, geometry, regions)
        layout = texture_layout(model, finish.size, finish.part_size, finish.gutter_px)
        linear = srgb_to_linear(image.detach().float().cpu())
        texels = unwrap(linear, geometry.vertices_mm.float(), geometry.camera, layout.atlas)
        texels = without_hidden(texels, regions, layout)
        return dressed(linear, geometry, seen, said, texels, self.chart, layout, finish, regions)


@lru_cache(maxsize=4)
def fixed_noise(size: int) -> Float[Tensor, "3 n n"]:
    """Standard normal maps that stand in hidden texels; always the same."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(3, size, size, generator=generator)


def load_retexturer(
    weights: Literal["open", "research"],
    model: FaceModel,
    config: RetexturePredictConfig | None = None,
    engine: Engine = "onnx",
    threads: int = 0,
) -> Retexturer:
    """The shipped network of a family.

    Args:
        weights: the family.
        model: the face model whose heads are dressed.
        config: how.
        engine: "onnx" (onnxruntime) or "torch".
        threads: of onnxruntime; 0 lets it choose.

    Raises:
        AssetError: its weights are missing, damaged or for another face model.
        ValueError: an unknown family or engine.
    """
    check_engine(engine)
    config = config or RetexturePredictConfig()
    name = config.weights or family_name("retexture", weights)
    if engine == "onnx":
        sizes = described(name, config_from_dict)
        graph = OnnxNetwork(f"{name}.onnx", RetextureInput._fields, threads)
        return Retexturer(OnnxRetexture(graph, sizes), model, config)
    network = described(name, lambda card: create_retexture(config_from_dict(card), model))
    return Retexturer(with_weights(network, name).float(), model, config)


def config_from_dict(values: dict[str, Any]) -> RetextureConfig:
    """The settings that a weight card or a checkpoint lists.

    Raises:
        TypeError: an unknown or missing setting.
    """
    inputs = RetextureInputs(**values.get("input", {}))
    return RetextureConfig(**{**values, "input": inputs})
