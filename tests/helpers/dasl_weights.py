"""Weights of 2DASL for tests: an untrained network in the files that a shipped one has."""

from __future__ import annotations

from pathlib import Path

import torch

from lifemask.assets import weights_folder
from lifemask.facemodel import load_face_model
from lifemask.methods.dasl import DaslConfig, create_dasl
from lifemask.training.dasl_export import export_dasl


def write_untrained_dasl(folder: Path, family: str = "open", size: int = 48) -> Path:
    """A weights folder with all that is shipped and `dasl-FAMILY`; its answers mean nothing.

    They depend on the crop and on the map, and are heads near the mean in the middle of the crop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in weights_folder().iterdir():
        if not file.name.startswith("dasl-"):
            (folder / file.name).symlink_to(file.resolve())
    model, config = load_face_model(), DaslConfig("tiny", size)
    torch.manual_seed(5)
    network = create_dasl(config, model)
    with torch.no_grad():
        weight, deviation = network.regressor.weight, network.head.get_buffer("white_std")
        weight.copy_(torch.randn_like(weight))
        deviation.fill_(0.3)
        deviation[:9] = 0.1
        network.head.get_buffer("white_mean")[-len(model.expression_names) :] = 0.2
    card = {"summary": "untrained", "kind": "dasl", "tag": family, "licence": "test"}
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    export_dasl(weights, config, model, folder, f"dasl-{family}", card | {"sources": []})
    return folder
