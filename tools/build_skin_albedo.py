"""Build the per-vertex skin albedo prior of the photometric fitter from CC0 MakeHuman skins.

python tools/build_skin_albedo.py --skins DATA/skins --out src/lifemask/weights
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.lighting import srgb_to_linear

_SIZE = 512
_BLUR_PX = 2.0  # about half the distance between vertices on the cheek


def vertex_colours(path: Path, model: FaceModel) -> Tensor:
    """Linear RGB (v, 3) of a skin texture at each vertex, blurred to the mesh's resolution."""
    image = Image.open(path).convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)
    image = image.filter(ImageFilter.GaussianBlur(_BLUR_PX))
    texture = srgb_to_linear(torch.tensor(np.array(image)).permute(2, 0, 1).float() / 255)
    topology = model.topology
    uv = torch.zeros(len(topology.mirror), 2)
    uv[topology.faces.flatten()] = topology.uvs[topology.faces_uv.flatten()]
    grid = torch.stack((uv[:, 0] * 2 - 1, (1 - uv[:, 1]) * 2 - 1), -1)[None, None]
    return torch.nn.functional.grid_sample(texture[None], grid, align_corners=False)[0, :, 0].T


def principal_components(colours: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
    """Mean (v, 3), unit-variance modes (v, 3, k) and the share of variance they hold."""
    mean = colours.mean(0)
    deviation = (colours - mean).flatten(1)
    _, size, modes = torch.linalg.svd(deviation, full_matrices=False)
    scaled = modes[:count] * size[:count, None] / (len(colours) - 1) ** 0.5
    basis = scaled.reshape(count, *mean.shape).permute(1, 2, 0).contiguous()
    return mean, basis, float((size[:count] ** 2).sum() / (size**2).sum())


def main() -> None:
    """Read the skins, add their mirror images, write the prior and its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skins", type=Path, required=True, help="folder of *.jpg skins")
    parser.add_argument("--out", type=Path, required=True, help="weights folder")
    parser.add_argument("--modes", type=int, default=8)
    options = parser.parse_args()
    model = load_face_model("lifemask")
    paths = sorted(options.skins.glob("*.jpg"))
    colours = torch.stack([vertex_colours(path, model) for path in paths])
    colours = torch.cat((colours, colours[:, model.topology.mirror]))
    mean, basis, share = principal_components(colours, options.modes)
    file = options.out / "skin_albedo.safetensors"
    save_file({"mean": mean.half(), "basis": basis.half()}, str(file))
    card = {
        "name": "skin_albedo",
        "summary": f"Skin albedo prior per vertex of the head model: mean, {options.modes} modes.",
        "kind": "albedo prior",
        "licence": "CC0-1.0",
        "tag": "open",
        "sources": [f"{len(paths)} MakeHuman skins (CC0), each also mirrored"],
        "recipe": "python tools/build_skin_albedo.py --skins skins --out src/lifemask/weights",
        "commit": "",
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest()},
        "measured": {"variance_share": round(share, 4)},
    }
    (options.out / "skin_albedo.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{file}: {share:.1%} of the variance in {options.modes} modes")


if __name__ == "__main__":
    main()
