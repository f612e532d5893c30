"""Builds the albedo prior from the CC0 MakeHuman skins: what colour the unseen skin probably has.

Run: python tools/build_albedo_prior.py --skins DIR --out src/lifemask/weights

The head model keeps MakeHuman's UVs, so a skin is a texture of the head as it is. Per skin the tone
(median of the cheeks) is split off; what remains is made symmetric, and each texel is regressed on
the tone's luminance: `log albedo = tone + mean + slope * luminance(tone)`. The cropped hair that
all skins wear is measured as a mask and removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lifemask.facemodel import load_face_model
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.graphics.uv import UvAtlas, create_uv_atlas, fill_holes, mirror_texels, sample_uv
from lifemask.methods._texture_regions import skin_chart_faces

SIZE = 640
"""Side of the full texture of which the prior stores the part that holds the head's chart."""
LUMINANCE = torch.tensor([0.2126, 0.7152, 0.0722])
DARK_TONE = -1.9
"""Log luminance below which a skin counts as dark: its hair is black, which marks the scalp."""


@dataclass(frozen=True)
class Layout:
    """The head's chart: its atlas, mirrored texel positions, mean-head positions (t, 3) mm."""

    atlas: UvAtlas
    mirrored: torch.Tensor
    points: torch.Tensor
    landmarks: torch.Tensor


def head_layout() -> Layout:
    """The chart that holds the nose tip, at `SIZE`."""
    model = load_face_model()
    topology = model.topology
    with torch.no_grad():
        mean = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    landmarks = model.landmarks(mean, "ict68")
    faces = skin_chart_faces(topology, mean, landmarks[30])
    atlas = create_uv_atlas(topology.uvs, topology.faces_uv, topology.faces, SIZE, face_mask=faces)
    return Layout(atlas, mirror_texels(atlas, topology.mirror), atlas.interpolate(mean), landmarks)


def load_skin(path: Path, layout: Layout) -> torch.Tensor:
    """Symmetric log albedo (t, 3) of one skin."""
    with Image.open(path) as image:
        pixels = np.asarray(
            image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), np.float32
        )
    linear = srgb_to_linear(torch.from_numpy(pixels / 255).permute(2, 0, 1))
    own = layout.atlas.gather(linear)
    other = sample_uv(layout.atlas.scatter(own), layout.mirrored)
    return (own.clamp(min=0.004).log() + other.clamp(min=0.004).log()) / 2


@dataclass(frozen=True)
class Skins:
    """Skins with the cropped hair removed: tones (n, 3), relative (n, t, 3), scalp (t,)."""

    tones: torch.Tensor
    relative: torch.Tensor
    scalp: torch.Tensor


def separate(skins: torch.Tensor, layout: Layout) -> Skins:
    """Split log albedos (n, t, 3) into tones, hairless relative colour and the scalp's mask."""
    p, lm = layout.points, layout.landmarks
    cheek_y = (lm[30, 1] + lm[36, 1]) / 2
    cheek = ((p[:, 0].abs() - lm[45, 0] * 0.9).abs() < 9) & ((p[:, 1] - cheek_y).abs() < 12)
    cheek &= p[:, 2] > lm[36, 2] - 30
    tones = skins[:, cheek].median(dim=1).values
    relative = skins - tones[:, None]
    drop = -(relative[(tones @ LUMINANCE) < DARK_TONE].mean(0) @ LUMINANCE)
    hairline = lm[17:27, 1].max() + 30
    behind = p[:, 2] < lm[[0, 16], 2].max() + 25
    outside = (p[:, 1] > hairline) | (behind & (p[:, 1] > lm[8, 1] + 5))
    scalp = _blur(layout.atlas, ((drop - 0.35) / 0.9).clamp(0, 1) * outside)
    spread = torch.nn.functional.max_pool2d(layout.atlas.scatter(scalp[:, None]), 11, 1, 5)
    bare = ((0.15 - layout.atlas.gather(spread)[:, 0]) / 0.15).clamp(0, 1)
    stacked = relative.permute(1, 0, 2).reshape(len(p), -1)
    filled = _fill(layout.atlas, stacked, bare).view(len(p), -1, 3).permute(1, 0, 2)
    return Skins(tones, filled, scalp)


def regress(tones: torch.Tensor, relative: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean and slope (t, 3) of relative colour (n, t, 3) on the luminance of tones (n, 3)."""
    light = tones @ LUMINANCE
    centred = light - light.mean()
    slope = torch.einsum("ntc,n->tc", relative, centred) / (centred**2).sum()
    return {"mean": relative.mean(0) - slope * light.mean(), "slope": slope}


def _blur(atlas: UvAtlas, values: torch.Tensor) -> torch.Tensor:
    """Values (t,) smoothed over a few texels within the chart, so that a hairline has no specks."""
    stacked = atlas.scatter(torch.stack([values, torch.ones_like(values)], dim=-1), gutter=False)
    for _ in range(2):
        stacked = torch.nn.functional.avg_pool2d(stacked, 7, 1, 3)
    smooth = atlas.gather(stacked)
    return smooth[:, 0] / smooth[:, 1]


def _fill(atlas: UvAtlas, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    filled = fill_holes(atlas.scatter(values), atlas.scatter(weight[:, None])[0])
    return atlas.gather(filled)


def predict(prior: dict[str, torch.Tensor], tone: torch.Tensor) -> torch.Tensor:
    """Log albedo (t, 3) of a tone (3,)."""
    return tone + prior["mean"] + prior["slope"] * (tone @ LUMINANCE)


def leave_one_out(skins: Skins) -> dict[str, float]:
    """RMSE in linear RGB on bare skin of each skin from the others' prior, by tone tercile."""
    bare, count = skins.scalp < 0.05, len(skins.tones)
    errors = []
    for k in range(count):
        rest = torch.arange(count) != k
        prior = regress(skins.tones[rest], skins.relative[rest])
        truth = (skins.tones[k] + skins.relative[k]).exp()
        gap = predict(prior, skins.tones[k]).exp() - truth
        errors.append(float((gap[bare] ** 2).mean().sqrt()))
    order = (skins.tones @ LUMINANCE).argsort().numpy()
    thirds = np.array_split(np.array(errors)[order], 3)
    return {
        f"loo_rmse_linear_{name}": round(float(third.mean()), 4)
        for name, third in zip(("dark", "medium", "light"), thirds, strict=True)
    }


def save(prior: dict[str, torch.Tensor], layout: Layout, out: Path, measured: dict) -> None:
    """Write albedo_prior.safetensors (half precision, the chart's box only) and its card."""
    atlas = layout.atlas
    top, bottom = int(atlas.rows.min()) - 4, int(atlas.rows.max()) + 5
    left, right = int(atlas.columns.min()) - 4, min(int(atlas.columns.max()) + 5, SIZE)
    tensors = {}
    for name in ("mean", "slope", "scalp"):
        values = prior[name] if prior[name].ndim == 2 else prior[name][:, None]
        covered = atlas.scatter(torch.ones(len(atlas), 1))[0]
        image = fill_holes(atlas.scatter(values), covered)
        tensors[name] = image[:, top:bottom, left:right].half().contiguous()
    tensors["tones"] = prior["tones"].float()
    tensors["box_uv"] = torch.tensor([left, SIZE - bottom, right, SIZE - top]) / SIZE
    path = out / "albedo_prior.safetensors"
    save_file(tensors, path)
    card = {
        "name": "albedo_prior",
        "summary": "Head albedo given the skin tone: log-linear mean, slope on tone, scalp mask.",
        "kind": "albedo prior",
        "licence": "CC0-1.0 (derived from the MakeHuman skins, CC0)",
        "tag": "open",
        "sources": ["20 MakeHuman skins, 512 to 2048 px (CC0)"],
        "recipe": "python tools/build_albedo_prior.py --skins DIR --out src/lifemask/weights",
        "commit": "",
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
        "measured": measured,
    }
    (out / "albedo_prior.json").write_text(json.dumps(card, indent=2) + "\n")


def main() -> None:
    """Build, measure by leave-one-out, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skins", type=Path, required=True, help="folder of *_diffuse*.jpg")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    layout = head_layout()
    files = sorted(options.skins.glob("*_diffuse*.jpg"))
    skins = separate(torch.stack([load_skin(file, layout) for file in files]), layout)
    measured = leave_one_out(skins)
    print(measured)
    prior = regress(skins.tones, skins.relative) | {"tones": skins.tones, "scalp": skins.scalp}
    save(prior, layout, options.out, measured)


if __name__ == "__main__":
    main()
