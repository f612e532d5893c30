"""Small caches of faces for the re-renderable texture, rendered without files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers.small_generator import small_generator
from lifemask.data.synthetic import HELD_OUT_SEED, model_fingerprint
from lifemask.facemodel import load_face_model
from lifemask.methods._retexture_chart import create_texture_chart
from lifemask.training._retexture_cache import HeadRecord, start_cache, write_shard
from lifemask.training._retexture_renders import render_heads

SIZE = 64


def render_records(count: int, jitter: float = 0.0, lights: int = 2) -> list[HeadRecord]:
    """Heads with skins of noise."""
    model = load_face_model("lifemask")
    generator = small_generator(model, size=SIZE, shard_size=max(count, 4))
    chart = create_texture_chart(model, SIZE)
    return list(render_heads(generator, chart, 0, range(count), lights, jitter))


def as_photo(record: HeadRecord) -> HeadRecord:
    """The first picture, its truth forgotten."""
    return replace(
        record,
        photo=record.photo[:1],
        light=np.zeros((1, 9, 3), np.float32),
        albedo=torch.zeros_like(record.albedo),
        truth=torch.zeros_like(record.truth),
    )


def store(folder: Path, records: list[HeadRecord], **settings) -> Path:
    """A cache of some heads, two in a shard."""
    photos = not float(records[0].truth.sum())
    start_cache(folder, {
        "source": "photos" if photos else "renders",
        "licence": "research only" if photos else "open",
        "lights": len(records[0].photo), "size": SIZE, "seed": 1, "held_out": False,
        "face_model_sha1": model_fingerprint(load_face_model("lifemask")), **settings,
    })  # fmt: skip
    for shard, start in enumerate(range(0, len(records), 2)):
        write_shard(folder, shard, records[start : start + 2])
    return folder


HELD = {"held_out": True, "seed": HELD_OUT_SEED}
