"""A small set of synthetic heads with made-up pictures: full truth, no generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lifemask.data.synthetic import model_fingerprint
from lifemask.data.synthetic_heads import FORMAT, VERSION
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.lighting import ambient_light

IMAGE_PX, ALBEDO_PX = 96, 128


def write_heads(root: Path, heads: int = 3) -> None:
    """Heads of the default model with random coefficients, in the layout of `synthetic_heads`."""
    model = load_face_model()
    rng = np.random.default_rng(3)
    for part in ("images", "albedo", "visible"):
        (root / part).mkdir(parents=True, exist_ok=True)
    angles = torch.tensor([[5.0 * k, 40.0 * k - 40.0, 0.0] for k in range(heads)])
    names = [f"head-{k:03d}-0" for k in range(heads)]
    for k, name in enumerate(names):
        skin = rng.integers(60 + 40 * k, 120 + 40 * k, (ALBEDO_PX, ALBEDO_PX, 3)).astype(np.uint8)
        Image.fromarray(skin).save(root / "albedo" / f"{name}.png")
        shown = np.zeros((ALBEDO_PX, ALBEDO_PX), np.uint8)
        shown[:, : ALBEDO_PX * 7 // 8] = 255
        Image.fromarray(shown).save(root / "visible" / f"{name}.png")
        photo = rng.integers(0, 255, (IMAGE_PX, IMAGE_PX, 3)).astype(np.uint8)
        Image.fromarray(photo).save(root / "images" / f"{name}.png")
    light = ambient_light(0.9).sh.numpy()
    expression = rng.uniform(0, 0.3, (heads, len(model.expression_names)))
    labels = {
        "names": np.array(names),
        "person": np.arange(heads),
        "identity": rng.normal(size=(heads, model.identity_size)).astype(np.float32),
        "expression": expression.astype(np.float32),
        "rotation": rotation_from_euler_deg(angles).numpy().astype(np.float32),
        "translation": np.tile(np.array([0, 0, -600], np.float32), (heads, 1)),
        "scale": np.full(heads, 300.0, np.float32),
        "center": np.full((heads, 2), IMAGE_PX / 2 - 0.5, np.float32),
        "light_sh": np.tile(light, (heads, 1, 1)),
        "relight_sh": np.tile(light, (heads, 1, 1)),
        "gain": np.ones((heads, 3), np.float32),
        "flags": np.zeros((heads, 3), bool),
    }
    np.savez(root / "labels.npz", allow_pickle=False, **labels)
    header = {
        "format": FORMAT, "version": VERSION, "family": "open", "seed": 0, "heads": heads,
        "views": 1, "image_size": IMAGE_PX, "expand": 1.5, "albedo_size": ALBEDO_PX,
        "face_model": model.name, "face_model_sha1": model_fingerprint(model),
    }  # fmt: skip
    (root / "header.json").write_text(json.dumps(header))
