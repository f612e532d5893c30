"""Pairs of noise that worker processes can make: quick, and a function of seed and number."""

from pathlib import Path

import numpy as np

from lifemask.data._pairs_types import Pair, PairsConfig

SIZE = 16


class NoiseMaker:
    """Stands in for `PairsMaker`."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config

    def banks(self, shard: int) -> int:
        return shard

    def make(self, banks: int, indices):
        for index in indices:
            assert index // self.config.shard_size == banks
            yield noise_pair(self.config.seed, index)


def create_noise(config: PairsConfig, data: Path) -> NoiseMaker:
    assert (data / "skins").is_dir()
    return NoiseMaker(config)


def noise_pair(seed: int = 0, index: int = 0, points: int = 700, surface: int = 500) -> Pair:
    """A pair whose numbers mean nothing, but lie in range."""
    rng = np.random.default_rng([seed, index])
    depth = rng.uniform(-0.8, 0.8, (2, SIZE, SIZE)).astype(np.float32)
    depth[:, :3] = np.nan
    normals = rng.standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[:, :3] = 0
    half = np.float16
    return Pair(
        image=rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8),
        region=rng.integers(0, 9, (SIZE, SIZE)).astype(np.uint8),
        normals=normals[0], depth=depth[0], guide_depth=depth[1], guide_normals=normals[1],
        points=rng.integers(0, 24, (points, 3)).astype(np.int16),
        sdf=rng.uniform(-0.04, 0.04, points).astype(half),
        fine=rng.standard_normal(points).astype(half),
        uniform=rng.uniform(-1, 1, (points // 10, 3)).astype(half),
        uniform_sdf=rng.uniform(-0.04, 0.04, points // 10).astype(half),
        surface=rng.uniform(-1, 1, (surface, 3)).astype(half),
        surface_normals=rng.uniform(-1, 1, (surface, 3)).astype(half),
        rotation=np.round(rng.standard_normal((3, 3)), 6).astype(np.float32), scale=0.512345,
        shift=np.array([30.25, 31.5], np.float32), z_mid=-0.125,
        identity=np.round(rng.standard_normal(80), 6).astype(np.float32),
        expression=np.round(rng.random(52), 6).astype(np.float32), person=index, age=0.25,
        detail_seed=int(rng.integers(2**31)), heads="lifemask", source=3 * index, residual=1.5,
        rejected={"yaw": index % 3, "residual": 1},
    )  # fmt: skip
