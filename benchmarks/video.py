"""Measure the video tracker on synthetic clips with truth: jitter, lag, accuracy and speed.

    python benchmarks/video.py [--seeds 101,102] [--frames 60] [--json FILE]

Draws 1280 x 720 clips of heads of our head model (random identities that no network saw, with the
skin of a public-domain portrait), over a made-up background, with sensor noise, JPEG noise and a
flicker of the light: one clip in which nothing moves, one with a swinging and nodding head that
blinks and opens its mouth. It compares, in px of the frame:

    per frame        detector and PGN on every frame by itself, as `lifemask reconstruct` does
    tracked          the tracker, one identity, not smoothed
    causal, offline  the same, smoothed

Jitter is the mean length of the second difference of the 68 landmarks over time, on the still face.
Lag is the shift at which a track fits the truth best. The settings of the smoother were chosen on
seeds 1 to 4; the defaults here are other ones. Speed: a clip from an MP4 file, with one thread
and with two, with the time of one detector pass in the same run as the yardstick.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lifemask.data._synthetic_sample import random_identity
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.animation import write_animation
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.graphics.lighting import linear_to_srgb
from lifemask.head import Head, render_head
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.types import Geometry, ModelParams
from lifemask.video import (
    PersonTrack,
    SmootherConfig,
    VideoConfig,
    VideoReconstructor,
    open_clip,
)
from lifemask.video.following import Trail
from provenance import provenance, write_result

RESULTS = Path(__file__).parent / "results"
WIDTH, HEIGHT, FPS = 1280, 720, 25.0
MODES = ("none", "causal", "offline")
NAMES = {"none": "tracked", "causal": "causal", "offline": "offline"}
NOISE, FLICKER, QUALITY = 4.0, 0.015, 85
BLINK = (0.35, 0.8, 0.8, 0.35)


@dataclass(frozen=True)
class TrueClip:
    """A synthetic clip.

    Attributes:
        frames: t images.
        landmarks_px: (t, 68, 2).
        pose_deg: (t, 3).
        expression: (t, e).
    """

    frames: list[np.ndarray]
    landmarks_px: np.ndarray
    pose_deg: np.ndarray
    expression: np.ndarray


def dressed_head() -> Head:
    """A head whose skin the synthetic people wear: the sample portrait's."""
    from skimage.data import astronaut

    return Pipeline(PipelineConfig(refine=False))(astronaut())[0]


def true_clip(dressed: Head, seed: int, moving: bool, count: int) -> TrueClip:
    """A clip of a random person, who stays still or moves."""
    rng = np.random.default_rng(seed)
    model = dressed.model
    assert model is not None
    identity = torch.from_numpy(random_identity(model.identity_size, rng))
    time_s = np.arange(count) / FPS
    pose, expression = script(model, time_s, rng, moving)
    scale = rng.uniform(1.1, 1.6)
    sway = rng.uniform(20, 50) if moving else 0.0
    center = np.array([WIDTH / 2, HEIGHT / 2]) + rng.uniform(-80, 80, 2)
    place = center + np.stack([sway * np.sin(2.2 * time_s), 0.3 * sway * np.sin(3.1 * time_s)], 1)
    ground = background(rng)
    frames, points = [], []
    for k in range(count):
        if k == 0 or moving:
            head = posed(dressed, model, identity, pose[k], expression[k], scale, place[k])
            clean = composed(head, ground)
        frames.append(with_noise(clean, rng))
        marks = head.geometry.landmarks68_mm
        assert marks is not None
        points.append(project(marks, head.geometry.camera)[:, :2].numpy())
    return TrueClip(frames, np.stack(points), pose, expression)


def script(
    model: FaceModel, time_s: np.ndarray, rng: np.random.Generator, moving: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pose in degrees (t, 3) and expression (t, e)."""
    names = model.expression_names
    pose = np.tile(rng.uniform([-6, -15, -6], [6, 15, 6]), (len(time_s), 1))
    expression = np.zeros((len(time_s), len(names)))
    for name in ("mouthSmileLeft", "mouthSmileRight", "browInnerUp"):
        expression[:, names.index(name)] = rng.uniform(0, 0.35)
    if moving:
        turns = 2 * np.pi * time_s
        pose = pose + np.stack(
            [8 * np.sin(0.7 * turns), 25 * np.sin(0.4 * turns), 5 * np.sin(0.3 * turns)], 1
        )
        jaw = 0.3 - 0.3 * np.cos(1.2 * turns)
        expression[:, names.index("jawOpen")] = np.where(time_s > 1.0, jaw, 0.0)
        for start in range(12, len(time_s) - len(BLINK), 30):
            for side in ("eyeBlinkLeft", "eyeBlinkRight"):
                expression[start : start + len(BLINK), names.index(side)] = BLINK
    return pose, expression


def posed(
    dressed: Head, model: FaceModel, identity: torch.Tensor, pose: np.ndarray,
    expression: np.ndarray, scale: float, place: np.ndarray,
) -> Head:  # fmt: skip
    """The person in a pose, in px of the frame."""
    active = torch.from_numpy(expression).float()
    with torch.no_grad():
        vertices = model(identity, active)
    camera = orthographic_camera(
        rotation_from_euler_deg(torch.from_numpy(pose).float()),
        scale,
        torch.from_numpy(place).float(),
    )
    geometry = Geometry(
        vertices,
        model.topology.faces,
        camera,
        model.name,
        ModelParams(identity, active),
        model.landmarks(vertices, "ict68"),
    )
    head = replace(dressed, geometry=geometry)
    vars(head)["transfer"] = dressed.transfer
    return head


def composed(head: Head, ground: np.ndarray) -> np.ndarray:
    """The head over the background, linear light blended, sRGB in [0, 255] as float."""
    points = project(head.geometry.vertices_mm, head.geometry.camera)[:, :2]
    low = points.amin(0).floor().int().clamp_min(0).tolist()
    high = (points.amax(0).ceil().int() + 1).tolist()
    x1, y1 = min(high[0], WIDTH), min(high[1], HEIGHT)
    camera = head.geometry.camera
    shift = camera.translation - camera.translation.new_tensor([low[0], low[1], 0])
    window = replace(camera, translation=shift)
    drawn, mask = render_head(head, window, y1 - low[1], x1 - low[0])
    cover = mask.numpy()[..., None]
    color = linear_to_srgb((drawn / mask.clamp_min(1e-3)).clamp(0, 1)).permute(1, 2, 0).numpy()
    result = ground.copy()
    part = result[low[1] : y1, low[0] : x1]
    part[:] = part * (1 - cover) + 255 * color * cover
    return result


def background(rng: np.random.Generator) -> np.ndarray:
    """Soft patches of colour with some fine texture, sRGB in [0, 255]."""
    result = np.full((HEIGHT, WIDTH, 3), 0.0, np.float32)
    for cells, strength in ((3, 70), (9, 35), (40, 15), (200, 8)):
        grid = rng.uniform(-1, 1, (cells, cells * 16 // 9, 3)).astype(np.float32)
        layers = [
            Image.fromarray(grid[..., c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        result += strength * np.stack([np.asarray(layer) for layer in layers], 2)
    return np.clip(result + 115, 0, 255)


def with_noise(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A frame as a camera and a codec give it."""
    level = 1 + rng.normal(0, FLICKER)
    noise = rng.standard_normal(clean.shape, dtype=np.float32) * NOISE
    pixels = np.clip(np.round(clean * level + noise), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(buffer))


def smoothed(video: VideoReconstructor, trail: Trail, mode: str, clip) -> PersonTrack:
    """The track of a person with a smoothing; the head without texture."""
    smoother = SmootherConfig(mode=mode)  # pyright: ignore[reportArgumentType]
    video.config = replace(video.config, smoother=smoother)
    return video.person(trail, 1, clip)


def per_frame(pipeline: Pipeline, frames: list[np.ndarray]) -> np.ndarray:
    """Landmarks (t, 68, 2) of every frame by itself; NaN where no face was found."""
    result = np.full((len(frames), 68, 2), np.nan)
    for k, frame in enumerate(frames):
        heads = pipeline(frame)
        result[k] = heads[0].landmarks68_px
    return result


def acceleration_px(points: np.ndarray) -> float:
    """Mean length of the landmarks' second difference over time, px / frame^2."""
    return float(np.nanmean(np.linalg.norm(np.diff(points, 2, axis=0), axis=-1)))


def error_px(points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance to the true landmarks, px."""
    return float(np.nanmean(np.linalg.norm(points - truth, axis=-1)))


def lag_frames(values: np.ndarray, truth: np.ndarray, edge: int = 8) -> float:
    """By how many frames a curve comes later than the truth: where they correlate best."""
    at = np.arange(len(truth))
    shifts = np.arange(-edge + 1, edge, 0.02)
    inner = slice(edge, len(truth) - edge)

    def match(shift: float) -> float:
        moved = np.interp(at + shift, at, values)[inner]
        return float(np.corrcoef(moved, truth[inner])[0, 1])

    return float(shifts[int(np.argmax([match(s) for s in shifts]))])


def kept_blink(track: PersonTrack, truth: TrueClip) -> float:
    """Share of the blinks' height that the smoothed track keeps of the unsmoothed one."""
    column = track.model.expression_names.index("eyeBlinkLeft")
    values, true = track.expression[:, column], truth.expression[:, column]
    starts = np.flatnonzero((true[1:] > 0) & (true[:-1] == 0)) + 1
    heights = []
    for start in starts:
        around = values[max(start - 6, 0) : start + len(BLINK) + 6]
        rest = np.median(values[max(start - 8, 0) : start])
        heights.append(around.max() - rest)
    return float(np.mean(heights)) if heights else float("nan")


def measure(seed: int, dressed: Head, count: int, video: VideoReconstructor) -> dict[str, Any]:
    """Everything about one person."""
    single = Pipeline(PipelineConfig(refine=False, texture="none", threads=1))
    still, moving = (true_clip(dressed, seed, moves, count) for moves in (False, True))
    row: dict[str, Any] = {"seed": seed, "jitter": {}, "error": {}, "lag": {}, "blink": {}}
    row["error_still"] = {}
    for name, clip in (("still", still), ("moving", moving)):
        alone = per_frame(single, clip.frames)
        opened = open_clip(clip.frames, FPS)
        trail = next(iter(video.follow(opened).trails.values()))
        tracks = {mode: smoothed(video, trail, mode, opened) for mode in MODES}
        points = {"per frame": alone} | {NAMES[m]: t.landmarks68_px() for m, t in tracks.items()}
        key = "error_still" if name == "still" else "error"
        row[key] = {k: error_px(v, clip.landmarks_px) for k, v in points.items()}
        if name == "still":
            row["jitter"] = {k: acceleration_px(v) for k, v in points.items()}
            continue
        for mode, track in tracks.items():
            jaw = track.model.expression_names.index("jawOpen")
            row["lag"][NAMES[mode]] = {
                "yaw": lag_frames(track.pose_deg[:, 1], clip.pose_deg[:, 1]),
                "pitch": lag_frames(track.pose_deg[:, 0], clip.pose_deg[:, 0]),
                "jaw": lag_frames(track.expression[:, jaw], clip.expression[:, jaw]),
                "landmarks": lag_frames(
                    points[NAMES[mode]].mean(1)[:, 0], clip.landmarks_px.mean(1)[:, 0]
                ),
            }
            row["blink"][NAMES[mode]] = kept_blink(track, clip)
    base = row["blink"]["tracked"]
    # of a blink that the network hardly sees there is nothing to keep
    row["blink_kept"] = {k: v / base if base > 0.1 else None for k, v in row["blink"].items()}
    return row


def speed(clip: TrueClip, threads: int, fast: bool) -> dict[str, float]:
    """Frames per second of tracking a 720p file, and the milliseconds of each stage."""
    config = VideoConfig(threads=threads, flip=not fast, texture="none", refine=False)
    video = VideoReconstructor(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_animation((Image.fromarray(f) for f in clip.frames), path, fps=FPS)
        opened = open_clip(path)
        best: dict[str, float] = {}
        for _ in range(2):
            start, work = time.perf_counter(), time.process_time()
            follower = video.follow(opened)
            total, work = time.perf_counter() - start, time.process_time() - work
            if not best or total < best["total"]:
                best = {"total": total, "processor": work} | dict(follower.seconds)
    count = len(clip.frames)
    detector = []
    for frame in clip.frames[:12]:
        start = time.perf_counter()
        video.detectors[0](frame)
        detector.append(time.perf_counter() - start)
    result = {f"{name}_ms": 1e3 * value / count for name, value in best.items()}
    result["fps"] = count / best["total"]
    result["processor_fps"] = 1e3 / result["processor_ms"]
    result["one_detector_pass_ms"] = 1e3 * statistics.median(detector)
    return result | {"threads": threads, "fast": float(fast)}


def main() -> None:
    """Run everything and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", default="101,102")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--json", type=Path, default=RESULTS / "video.json")
    parser.add_argument("--no-speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dressed = dressed_head()
    video = VideoReconstructor(VideoConfig(threads=1, texture="none", refine=False))
    rows = []
    for seed in map(int, options.seeds.split(",")):
        rows.append(measure(seed, dressed, options.frames, video))
        print(json.dumps(rows[-1], indent=1))
    result: dict[str, Any] = provenance(
        f"python benchmarks/video.py --seeds {options.seeds} --frames {options.frames}"
    )
    result["threads"] = "networks 1 (jitter); as given (speed); torch 1"
    result["load_average"] = os.getloadavg()
    result |= {"clip": {"width": WIDTH, "height": HEIGHT, "fps": FPS, "frames": options.frames,
                        "noise": NOISE, "flicker": FLICKER, "jpeg_quality": QUALITY}}  # fmt: skip
    result["people"] = rows
    result["mean"] = means(rows)
    print(json.dumps(result["mean"], indent=1))
    if not options.no_speed:
        clip = true_clip(dressed, 100, True, options.frames)
        result["speed"] = [speed(clip, n, fast) for n in (1, 2) for fast in (True, False)]
        print(json.dumps(result["speed"], indent=1))
    write_result(options.json, result)


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the people, and the factors by which smoothing beats what is not smoothed."""
    result: dict[str, Any] = {}
    for key in ("jitter", "error_still", "error"):
        result[key] = {k: float(np.mean([r[key][k] for r in rows])) for k in rows[0][key]}
    result["lag"] = {
        mode: {k: float(np.mean([r["lag"][mode][k] for r in rows])) for k in rows[0]["lag"][mode]}
        for mode in rows[0]["lag"]
    }
    jitter = result["jitter"]
    result["times_steadier"] = {
        f"{mode} than {base}": jitter[base] / jitter[mode]
        for mode in ("causal", "offline")
        for base in ("per frame", "tracked")
    }
    return result


if __name__ == "__main__":
    main()
