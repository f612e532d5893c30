"""A quick stand-in for the pipeline of a batch, told by a photo's colour what to do.

Worker processes import it. A photo of an even grey shows an egg; saturated colours are trouble.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fake_stages import EggModel
from lifemask.assets import AssetError
from lifemask.batch.job import BatchJob
from lifemask.faces.choice import NoFaceError
from lifemask.graphics.camera import orthographic_camera, rotation_from_euler_deg
from lifemask.head import Head
from lifemask.pipeline_config import PipelineConfig
from lifemask.types import Face, Geometry, ModelParams

NO_FACE, CRASH, SLOW, FAULT = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


@dataclass(frozen=True)
class FakeLoad:
    """`BatchJob.create` of the stand-in.

    Attributes:
        delay_s: a photo takes.
        log: file that gets a line "PID GREY" when a photo is begun.
        once: file that makes "CRASH" photos crash only while it is absent.
    """

    delay_s: float = 0.0
    log: str = ""
    once: str = ""

    def __call__(self, config: PipelineConfig):
        model = EggModel()

        def reconstruct(photo: np.ndarray) -> list[Head]:
            color = tuple(int(v) for v in photo[0, 0])
            if self.log:
                with Path(self.log).open("a") as file:
                    file.write(f"{os.getpid()} {color[0]}\n")
            time.sleep(self.delay_s)
            trouble(color, self.once)
            count = 2 if config.faces == "all" else 1
            return [egg(model, color[0] + 0.1 * i) for i in range(count)]

        return reconstruct


def trouble(color: tuple[int, ...], once: str) -> None:
    if color == NO_FACE:
        raise NoFaceError("no face found; if there is one, give its box")
    if color == FAULT:
        raise ZeroDivisionError("a bug")
    if color == SLOW:
        time.sleep(3600)
    if color == CRASH and not (once and Path(once).exists()):
        if once:
            Path(once).touch()
        os.kill(os.getpid(), signal.SIGSEGV)


def no_weights(config: PipelineConfig):
    raise AssetError("weight file x is missing; install lifemask again")


def cannot_start(config: PipelineConfig):
    os.kill(os.getpid(), signal.SIGKILL)


def egg(model: EggModel, yaw_deg: float) -> Head:
    """A head whose numbers tell the photo's grey."""
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw_deg / 4, 0.0]))
    camera = orthographic_camera(rotation, 0.4, torch.tensor([50.0, 60.0]))
    params = ModelParams(torch.full((6,), yaw_deg / 256), torch.zeros(5))
    vertices = model(params.identity, params.expression)
    points = model.landmarks(vertices, "ict68")
    geometry = Geometry(vertices, model.topology.faces, camera, "egg", params, points)
    face = Face((10.0, 10.0, 90.0, 110.0), 0.9)
    return Head(face, geometry, None, (100, 120), "open", model)


def paint(path: Path, color: int | tuple[int, int, int]) -> Path:
    """A photo of one colour."""
    rgb = (color,) * 3 if isinstance(color, int) else color
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((24, 20, 3), rgb, np.uint8)).save(path)
    return path


def greys(folder: Path, count: int) -> Path:
    """A folder of photos `p00.png`, ... that differ in their grey."""
    for i in range(count):
        paint(folder / f"p{i:02d}.png", 10 + 3 * i)
    return folder


def fake_job(folder: Path, **options) -> BatchJob:
    """A job for the stand-in."""
    given = {"formats": ("json",), "create": FakeLoad()} | options
    return BatchJob(given.pop("config", PipelineConfig()), folder, **given)


def contents(folder: Path, *, everything: bool = False) -> dict[str, bytes]:
    """Outputs of a run by name; journals and summaries, which tell of time, only if asked."""
    told = ("journal.jsonl", "summary.json", ".lock")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and (everything or p.name not in told)
    }
