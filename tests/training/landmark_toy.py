"""A tiny face model and drawn crops for the training tests: no files, no downloads."""

from dataclasses import replace

import numpy as np
import torch

from lifemask.data.augment import NO_AUGMENTATION
from lifemask.data.base import CropSet
from lifemask.facemodel.landmarks import flip_table
from lifemask.nn.parametric import LandmarkModel
from lifemask.training.recipes import LandmarkerRecipe, smoke

IDENTITY, EXPRESSION = 3, 2


def toy_model(seed: int = 0) -> LandmarkModel:
    """392 mirror-symmetric points on a bowl of head size, and random symmetric modes."""
    generator = torch.Generator().manual_seed(seed)
    flip = flip_table("lifemask392")
    mirror = torch.tensor([-1.0, 1.0, 1.0])

    def symmetric(x):
        return (x + x[flip] * mirror) / 2

    flat = torch.rand(392, 2, generator=generator) * 2 - 1
    depth = 60 - 50 * flat.square().sum(-1, keepdim=True)
    mean = symmetric(torch.cat((70 * flat, depth), 1))
    modes = torch.randn(IDENTITY + EXPRESSION, 392, 3, generator=generator) * 2
    return LandmarkModel(mean, torch.stack([symmetric(m) for m in modes]), IDENTITY)


def toy_recipe(family="open") -> LandmarkerRecipe:
    """The smoke recipe with the toy model's sizes."""
    recipe = smoke(family)
    net = replace(recipe.net, identity=IDENTITY, expression=EXPRESSION)
    return replace(recipe, net=net)


def toy_renders(count: int = 16, seed: int = 0, size: int = 128) -> CropSet:
    """Crops with a bright blob at every tenth landmark of posed toy faces."""
    model = toy_model()
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, 9 + IDENTITY + EXPRESSION, generator=generator) * 0.1
    posed = model(raw)
    nominal = size / 1.25
    points = posed.points.clone()
    points[..., :2] = points[..., :2] * nominal / 2 + size / 2 - 0.5
    points[..., 2] *= nominal / 2
    v, u = np.mgrid[:size, :size]
    images = np.zeros((count, size, size, 3), np.float32)
    for i, marks in enumerate(points.numpy()):
        for k, (x, y, _) in enumerate(marks[::10]):
            images[i, ..., k % 3] += np.exp(-((u - x) ** 2 + (v - y) ** 2) / 18)
    return CropSet(
        "renders",
        "lifemask392",
        ((images.clip(0, 1) * 255).astype(np.uint8),),
        points.numpy().astype(np.float32),
        np.ones((count, 392), bool),
        nominal,
        np.zeros(count, np.float32),
        np.ones(count, np.float32),
    )


def toy_real(name: str, count: int = 8) -> CropSet:
    """Crops labelled like AFLW-21 ("aflw21") or YTF-68 ("ytf68"), made from toy renders."""
    from lifemask.facemodel.landmarks import convert

    renders = toy_renders(count, seed=7)
    convention = "aflw21" if name == "aflw21" else "ict68"
    whole = torch.from_numpy(renders.points[..., :2])
    points = convert(whole, "lifemask392", "ict68")
    points = convert(points, "ict68", convention).numpy()
    return replace(
        renders,
        name=name,
        convention=convention,
        points=points,
        visible=np.ones(points.shape[:2], bool),
        person=np.arange(count) if name == "ytf68" else None,
    )


PLAIN = NO_AUGMENTATION
