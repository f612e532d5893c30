"""A generator of labelled faces without files: noise for skins and sky, and a tiny face model."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lifemask.data._synthetic_masks import create_masks
from lifemask.data._synthetic_photo import no_faults
from lifemask.data._synthetic_props import create_props
from lifemask.data._synthetic_regions import texel_regions
from lifemask.data._synthetic_rig import create_rig, neutral_mean
from lifemask.data._synthetic_surroundings import Surroundings, create_environment
from lifemask.data.synthetic import Generator, SyntheticConfig
from lifemask.facemodel.base import FaceModel, LandmarkEmbedding, Topology
from lifemask.facemodel.landmarks import FROM_68
from lifemask.facemodel.linear import LinearFaceModel


@lru_cache(maxsize=4)
def _prepared(model: FaceModel):
    """What costs seconds to prepare for a model, once per test run."""
    rig = create_rig(model)
    props = create_props(rig)
    masks = create_masks(rig, props.beards)
    return rig, props, masks, texel_regions(rig, masks)


def small_generator(model: FaceModel, **settings) -> Generator:
    """A generator whose skins and sky are noise."""
    small: dict[str, Any] = {"seed": 3, "size": 64, "bank_size": 2, "shard_size": 4}
    config = SyntheticConfig(**(small | settings))
    rig, props, masks, regions = _prepared(model)
    rng = np.random.default_rng(0)
    skins = rng.uniform(0.3, 0.9, (2, *rig.texture_shape, 3)).astype(np.float32)
    skins = ((skins + np.roll(skins, 1, 1) + np.roll(skins, 1, 2)) / 3).astype(np.float32)
    sky = create_environment(rng.uniform(0.1, 2.0, (24, 48, 3)).astype(np.float32))
    noise = rng.random(1009).astype(np.float32)
    return Generator(config, rig, props, masks, regions, skins, Surroundings((sky,)), noise=noise)


def plain_light(scene):
    """The scene without key light, gloss, glass, and faults of the camera."""
    from dataclasses import replace

    materials = scene.materials.copy()
    materials[:, 10] = 0
    light = replace(scene.light, key_colour=np.zeros(3, np.float32), shadows=False)
    return replace(scene, materials=materials, light=light, lens=None, faults=no_faults())


def egg_model(rows: int = 48, columns: int = 64, landmark_set: str = "ibug68") -> LinearFaceModel:
    """A linear model of an egg-shaped head without eyes, teeth, UVs or ARKit names.

    Its 68 landmarks are the egg's vertices nearest to those of a real face.
    """
    from lifemask.facemodel import load_face_model

    real = load_face_model("lifemask")
    with torch.no_grad():
        face = real.landmarks(neutral_mean(real), "ict68")
    polar = torch.linspace(0.02, np.pi - 0.02, rows)[:, None]
    around = torch.arange(columns)[None] / columns * 2 * np.pi
    points = torch.stack(
        [78 * polar.sin() * around.sin(), 20 + 122 * polar.cos() + 0 * around,
         10 + 102 * polar.sin() * around.cos()], -1,
    ).reshape(-1, 3)  # fmt: skip
    faces = []
    for r in range(rows - 1):
        for c in range(columns):
            a, b = r * columns + c, r * columns + (c + 1) % columns
            faces += [[a, a + columns, b + columns], [a, b + columns, b]]
    ids = torch.cdist(face, points).argmin(1)
    if landmark_set in FROM_68:
        ids = ids[[row[0] for row in FROM_68[landmark_set]]]
    corners = ids[:, None].expand(-1, 3).contiguous()
    weights = torch.tensor([1.0, 0, 0]).expand(len(ids), 3).contiguous()
    generator = torch.Generator().manual_seed(0)
    topology = Topology(
        faces=torch.tensor(faces),
        uvs=torch.zeros(1, 2),
        faces_uv=torch.zeros(len(faces), 3, dtype=torch.int64),
        face_part=torch.zeros(len(faces), dtype=torch.int64),
        part_names=("head",),
        mirror=torch.arange(len(points)),
        regions={},
    )
    return LinearFaceModel(
        name="egg",
        mean=points,
        identity=points[None] * torch.randn(3, 1, 3, generator=generator) * 0.03,
        expression=torch.randn(4, 1, 3, generator=generator).expand(4, len(points), 3).contiguous(),
        expression_names=("wobble", "nod", "hop", "sway"),
        topology=topology,
        landmark_embeddings={
            landmark_set: LandmarkEmbedding(corners, weights, torch.arange(len(ids)))
        },
    )
