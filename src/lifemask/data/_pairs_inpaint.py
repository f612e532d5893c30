"""How the gap beside a swapped head is filled: Laplace's equation, or a trained network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lifemask.assets import UserError, sha256, weights_folder
from lifemask.data._pairs_blend import harmonic_fill
from lifemask.data._pairs_masks import Mask

if TYPE_CHECKING:
    from lifemask.data._pairs_types import PairsConfig
    from lifemask.nn.inpaint_net import InpaintNet

Fill = Callable[[NDArray[np.floating], Mask, Mask], NDArray[np.float64]]
"""(picture (h, w, 3) sRGB in [0, 1], hole (h, w), known (h, w)) -> the picture, hole filled."""
_REMEDY = (
    "train one (lifemask train inpaint, then python -m lifemask.training.inpaint_export) and name"
    " its folder with --inpaint-weights, or use --inpaint harmonic"
)


class Inpainter:
    """A `Fill` by a network, in torch: the same numbers at every size of picture and crew.

    Args:
        network: trained; moved to evaluation mode.
    """

    def __init__(self, network: InpaintNet) -> None:
        from lifemask.nn.inpaint_net import InpaintExport

        self._step = network.config.step
        self._export = InpaintExport(network).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.floating], hole: Mask, known: Mask) -> NDArray[np.float64]:
        """The picture with its hole filled; every other pixel as it was.

        Without a hole, or with nothing to look at, it is the picture itself, as `harmonic_fill`
        has it.
        """
        image = np.asarray(image, np.float64)
        source = known & ~hole
        if not source.any() or not hole.any():
            return image
        height, width = hole.shape
        pad = ((0, -height % self._step), (0, -width % self._step))
        masks = (np.pad(m, pad).astype(np.float32)[None, None] for m in (source, hole))
        picture = np.pad(np.where(source[..., None], image, 0), (*pad, (0, 0)))
        pixels = torch.from_numpy(picture).float().permute(2, 0, 1)[None].contiguous()
        found = self._export(pixels, *(torch.from_numpy(m) for m in masks))[0]
        filled = found.permute(1, 2, 0).double().numpy()[:height, :width]
        return np.where(hole[..., None], filled, image)


def create_fill(config: PairsConfig) -> Fill:
    """What fills the gaps of a run.

    Raises:
        UserError: a network is asked for and not there, damaged, or not for these pairs.
    """
    return load_inpainter(weights_file(config)) if config.inpaint == "net" else harmonic_fill


def fill_facts(config: PairsConfig) -> dict[str, str]:
    """What a manifest says of the network, since pairs follow from it; nothing without one.

    Raises:
        UserError: as `create_fill`.
    """
    return {"inpaint_sha256": sha256(weights_file(config))} if config.inpaint == "net" else {}


def weights_file(config: PairsConfig) -> Path:
    """The network that a run's settings name, for pairs of their licence.

    Raises:
        UserError: it is not there, or it learned from photos that these pairs may not inherit from.
    """
    family = "research" if config.licence == "research only" else "open"
    folder = Path(config.inpaint_weights) if config.inpaint_weights else weights_folder()
    name = f"inpaint-{family}"
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"no {path.name} in {folder}: {_REMEDY}")
    if family == "open" and _card(path).get("tag") != "open":
        raise UserError(f"{path} is not of the open family, and these pairs may not use it")
    return path


def load_inpainter(path: Path) -> Inpainter:
    """The network of a weight file, whose card lies beside it.

    Raises:
        UserError: either is missing, damaged or of another network.
    """
    from safetensors.torch import load_file

    from lifemask.nn.inpaint_net import InpaintNet, config_from_dict

    card = _card(path)
    try:
        if card["sha256"][path.name] != sha256(path):
            raise ValueError("its sha256 differs from its card's")
        network = InpaintNet(config_from_dict(card["network"]))
        network.load_state_dict(load_file(path))
    except Exception as error:  # a broken header raises a class of its own
        raise UserError(f"{path} cannot be used ({error}): {_REMEDY}") from error
    return Inpainter(network.float())


def _card(path: Path) -> dict:
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} has no readable card ({error}): {_REMEDY}") from error
    return card if isinstance(card, dict) else {}
