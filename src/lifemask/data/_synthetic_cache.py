"""The cache of renders that training maps: shards of plain npy and npz files, and their header."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError
from lifemask.data.regions import GLASSES
from lifemask.types import REGION_NAMES

if TYPE_CHECKING:
    from lifemask.data.synthetic import Generator, Sample, SyntheticConfig
    from lifemask.facemodel.base import FaceModel

LOGGER = logging.getLogger(__name__)
FORMAT_VERSION = 6


def write_shard(generator: Generator, folder: Path, shard: int, count: int) -> None:
    """Render and store one shard; the label file appears last and marks it complete."""
    from lifemask.data.synthetic import render_samples

    size = generator.config.size
    first = shard * generator.config.shard_size
    images = np.empty((count, size, size, 3), np.uint8)
    regions = np.empty((count, size, size), np.uint8)
    rows: dict[str, list] = {}
    indices = list(range(first, first + count))
    samples = render_samples(generator, generator.banks(shard), indices)
    for k, sample in enumerate(samples):
        images[k] = sample.image
        regions[k] = sample.region | np.uint8(GLASSES) * sample.glasses
        for name, value in _label_row(sample).items():
            rows.setdefault(name, []).append(value)
    labels: dict[str, NDArray] = {name: np.stack(values) for name, values in rows.items()}
    labels["nominal_side_px"] = np.array(generator.config.nominal_side_px, np.float32)
    _replace(folder / f"images-{shard:04d}.npy", lambda file: np.save(file, images))
    _replace(folder / f"regions-{shard:04d}.npy", lambda file: np.save(file, regions))
    _replace(
        folder / f"labels-{shard:04d}.npz",
        lambda file: np.savez(file, allow_pickle=False, **labels),
    )


def _label_row(sample: Sample) -> dict[str, NDArray]:
    return {
        "points": sample.points,
        "visible": sample.visible,
        "rotation": sample.rotation,
        "translation_mm": sample.translation_mm,
        "f_px": np.array(sample.f_px, np.float32),
        "center_px": sample.center_px,
        "scale_px_per_mm": np.array(sample.view.scale_px_per_mm, np.float32),
        "orthographic": np.array(sample.view.orthographic),
        "identity": sample.identity.astype(np.float16),
        "expression": sample.expression.astype(np.float16),
        "gaze_deg": sample.gaze_deg,
        "age": np.array(sample.age, np.float32),
        "light_sh": sample.sh,
        "key_direction": sample.key_direction,
        "key_colour": sample.key_colour,
        "gain": sample.gain,
        "person": np.array(sample.person, np.int64),
        "glasses": sample.flags[0],
        "beard": sample.flags[1],
        "occluder": sample.flags[2],
    }


def _replace(path: Path, write) -> None:
    """Write a file so that it is either absent or complete."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)


def model_fingerprint(model: FaceModel) -> str:
    """Hash of a face model's response to fixed coefficients: changes when its shapes do."""
    import hashlib

    import torch

    from lifemask.data._synthetic_rig import choose_sets

    with torch.no_grad():
        identity = torch.linspace(-1, 1, model.identity_size)
        expression = torch.linspace(0, 0.5, len(model.expression_names))
        vertices = model(identity, expression)
        points = model.landmarks(vertices, choose_sets(model)[0])
    rounded = (torch.cat([vertices, points]) * 100).round().to(torch.int32).numpy()
    return hashlib.sha1(rounded.tobytes()).hexdigest()[:12]


def write_header(config: SyntheticConfig, folder: Path, model: FaceModel, count: int) -> None:
    """Write `header.json`: settings, conventions and the list of complete shards."""
    from lifemask.data._synthetic_rig import choose_sets

    names = sorted(p.stem.removeprefix("labels-") for p in folder.glob("labels-*.npz"))
    header = {
        "format": "lifemask-synthetic",
        "version": FORMAT_VERSION,
        "family": config.family,
        "licence": "open" if config.family == "open" else "research only",
        "seed": config.seed,
        "image_size": config.size,
        "expand": config.expand,
        "nominal_side_px": config.nominal_side_px,
        "convention": choose_sets(model)[0],
        "camera": config.camera,
        "frames": config.frames,
        "held_out": config.held_out,
        "face_model": model.name,
        "face_model_sha1": model_fingerprint(model),
        "identity_size": model.identity_size,
        "expression_names": list(model.expression_names),
        "count_planned": count,
        "shard_size": config.shard_size,
        "bank_size": config.bank_size,
        "region_names": list(REGION_NAMES),
        "region_flags": {"glasses": GLASSES},
        "shards": [
            {
                "images": f"images-{n}.npy",
                "labels": f"labels-{n}.npz",
                "regions": f"regions-{n}.npy",
            }
            for n in names
        ],
    }
    text = json.dumps(header, indent=1).encode()
    _replace(folder / "header.json", lambda file: file.write(text))


def write_cache(
    generator: Generator, folder: Path, count: int, part: tuple[int, int] = (0, 1)
) -> None:
    """Write the missing shards of a cache; shards can be read while the rest is made.

    Args:
        generator: decides every image.
        folder: created if absent.
        count: images in the whole cache.
        part: (i, n): this process makes every n-th shard, starting with the i-th.

    Raises:
        UserError: the folder holds a cache of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = generator.config
    _check_same_run(config, folder, generator.rig.model)
    for shard in range(part[0], -(-count // config.shard_size), part[1]):
        if (folder / f"labels-{shard:04d}.npz").exists():
            continue
        size = min(config.shard_size, count - shard * config.shard_size)
        write_shard(generator, folder, shard, size)
        write_header(config, folder, generator.rig.model, count)
        LOGGER.info("%s: shard %d of %d images done", folder.name, shard, size)


def _check_same_run(config: SyntheticConfig, folder: Path, model: FaceModel) -> None:
    header = folder / "header.json"
    if not header.exists():
        return
    old = {"frames": 1} | json.loads(header.read_text())
    new = {
        "version": FORMAT_VERSION, "family": config.family, "seed": config.seed,
        "image_size": config.size, "expand": config.expand, "shard_size": config.shard_size,
        "bank_size": config.bank_size, "camera": config.camera, "frames": config.frames,
        "face_model": model.name, "face_model_sha1": model_fingerprint(model),
    }  # fmt: skip
    wrong = {k: (old[k], v) for k, v in new.items() if k in old and old[k] != v}
    if wrong:
        raise UserError(f"{folder} holds another run (stored, wanted): {wrong}; use a new folder")
