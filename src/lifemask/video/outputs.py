"""Tracks to files: an animated GLB, the numbers of every frame, and the clip's own record."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lifemask.export import animated_scene
from lifemask.graphics.camera import default_focal_px, orthographic_camera
from lifemask.graphics.meshio import Animation, MeshScene, ViewCamera, quaternions, write_glb
from lifemask.outputs import check_target, new_folder
from lifemask.types import ModelParams
from lifemask.video.frames import Clip
from lifemask.video.overlay import write_overlay
from lifemask.video.types import PersonTrack, VideoResult

TRACK_VERSION = 1
CLIP_FILES = ("clip.json", "overlay.mp4")
PERSON_FILES = ("head.glb", "track.json", "track.npz")


def write_video(
    result: VideoResult,
    folder: str | Path,
    clip: Clip | None = None,
    *,
    overwrite: bool = False,
    maps: bool = True,
    on_frame: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write what was found in a clip; the folder appears whole or not at all.

    The files are `clip.json`; for every person `person-1/head.glb`, `track.json` and `track.npz`
    (docs/video.md), ...; and `overlay.mp4` if the clip is given.

    Args:
        result: of `VideoReconstructor`.
        folder: made here; its parents too.
        clip: read a second time for the overlay; None writes none.
        overwrite: replace a folder that an earlier run made.
        maps: give the skin a normal and a roughness map.
        on_frame: told the number of each frame that was drawn.

    Returns:
        The files' paths.

    Raises:
        OutputError: the folder exists and may not be replaced, or cannot be written.
        UserError: the clip cannot be read, or the extra for videos is missing.
    """
    folder = Path(folder)
    with new_folder(folder, overwrite, holds_tracks) as part:
        for person in result.people:
            place = part / f"person-{person.number}"
            place.mkdir()
            write_glb(track_scene(person, maps=maps), place / "head.glb")
            (place / "track.json").write_text(track_text(person), encoding="utf-8")
            np.savez_compressed(place / "track.npz", allow_pickle=False, **track_arrays(person))
        if clip is not None:
            write_overlay(result, clip, part / "overlay.mp4", on_frame)
        text = json.dumps(clip_record(result), indent=1)
        (part / "clip.json").write_text(text + "\n", encoding="utf-8")
    return sorted(p for p in folder.rglob("*") if p.is_file())


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse early what `write_video` would refuse late.

    Raises:
        OutputError: see there.
    """
    check_target(folder, overwrite, holds_tracks)


def track_scene(person: PersonTrack, *, maps: bool = True) -> MeshScene:
    """The neutral head at rest with the track as keyframes, and the camera that shows the clip.

    The head turns as seen, and stands where a pinhole camera of 1015 / 224 image widths focal
    length would see it as large as it is: at `f / s` in front of the camera, s px per mm. The
    origin is the place on the camera's axis whose distance is the clip's median.

    Args:
        person: the track.
        maps: with normal and roughness maps of the skin.
    """
    neutral, _ = person.neutral_and_deltas
    geometry = person.head.geometry
    assert geometry.params is not None
    still = ModelParams(geometry.params.identity, torch.zeros_like(geometry.params.expression))
    at_rest = orthographic_camera(torch.eye(3), 1.0, torch.zeros(2))
    shape = replace(geometry, vertices_mm=neutral, params=still, camera=at_rest)
    scene = animated_scene(replace(person.head, geometry=shape), maps=maps)
    width, height = person.image_size
    f_px = default_focal_px(width)
    distance = f_px / float(np.median(person.scale))
    across = (person.translation_px - [(width - 1) / 2, (height - 1) / 2]) * [1, -1]
    place = np.concatenate(
        [across / person.scale[:, None], (distance - f_px / person.scale)[:, None]], 1
    )
    motion = Animation(
        person.time_s,
        person.expression,
        quaternions(person.rotation),
        place,
        name="clip",
    )
    view = ViewCamera(distance, 2 * math.atan(height / 2 / f_px), width / height)
    return replace(scene, morph_weights={}, animation=motion, camera=view)


def track_arrays(person: PersonTrack) -> dict[str, np.ndarray]:
    """The track as plain arrays, as `track.npz` has them."""
    return {
        "frame": person.frame.astype(np.int32),
        "time_s": person.time_s,
        "seen": person.seen,
        "score": person.score.astype(np.float32),
        "pose_deg": person.pose_deg.astype(np.float32),
        "rotation": person.rotation.astype(np.float32),
        "scale_px_per_mm": person.scale.astype(np.float32),
        "translation_px": person.translation_px.astype(np.float32),
        "expression": person.expression.astype(np.float32),
        "expression_names": np.array(person.model.expression_names),
        "identity": person.head.identity,
        "landmarks68_px": person.landmarks68_px().astype(np.float32),
        "measured68_px": person.measured_px.astype(np.float32),
    }


def track_text(person: PersonTrack) -> str:
    """The track as JSON, one line per frame."""
    from lifemask import __version__

    head = {
        "track_version": TRACK_VERSION,
        "lifemask": __version__,
        "person": person.number,
        "fps": round(person.fps, 6),
        "image_size": list(person.image_size),
        "weights": person.head.weights,
        "method": None if person.head.method is None else person.head.method.name,
        "smoothing": person.smoothing,
        "identity_frames": list(person.identity_frames),
        "texture_frame": person.texture_frame,
        "identity": _rounded(person.head.identity, 5),
        "expression_names": list(person.model.expression_names),
        "warnings": list(person.head.warnings),
    }
    lines = [json.dumps(head)[:-1] + ', "frames": [']
    arrays = track_arrays(person)
    count = len(person)
    for k in range(count):
        entry = _frame_entry(arrays, k)
        lines.append(json.dumps(entry) + ("," if k + 1 < count else ""))
    return "\n".join([*lines, "]}", ""])


def _frame_entry(arrays: dict[str, np.ndarray], k: int) -> dict[str, object]:
    pitch, yaw, roll = _rounded(arrays["pose_deg"][k], 4)
    return {
        "frame": int(arrays["frame"][k]),
        "time_s": round(float(arrays["time_s"][k]), 6),
        "flags": [] if arrays["seen"][k] else ["filled"],
        "score": round(float(arrays["score"][k]), 4),
        "pose_deg": {"pitch": pitch, "yaw": yaw, "roll": roll},
        "camera": {
            "model": "orthographic",
            "rotation": _rounded(arrays["rotation"][k], 7),
            "scale_px_per_mm": round(float(arrays["scale_px_per_mm"][k]), 7),
            "translation_px": _rounded(arrays["translation_px"][k], 4),
        },
        "expression": _rounded(arrays["expression"][k], 4),
        "landmarks68_px": _rounded(arrays["landmarks68_px"][k], 3),
    }


def clip_record(result: VideoResult) -> dict[str, object]:
    """What `clip.json` holds."""
    from lifemask import __version__

    return {
        "track_version": TRACK_VERSION,
        "lifemask": __version__,
        "clip": Path(result.name).name,
        "fps": round(result.fps, 6),
        "frames": result.frames,
        "image_size": list(result.size),
        "cuts": list(result.cuts),
        "warnings": list(result.warnings),
        "people": [
            {
                "person": p.number,
                "folder": f"person-{p.number}",
                "first_frame": int(p.frame[0]),
                "last_frame": int(p.frame[-1]),
                "frames_seen": int(p.seen.sum()),
                "frames_filled": int((~p.seen).sum()),
                "mean_score": round(float(p.score[p.seen].mean()), 4),
            }
            for p in result.people
        ],
    }


def _rounded(values: np.ndarray, digits: int):
    return np.round(np.asarray(values, np.float64), digits).tolist()


def holds_tracks(folder: Path) -> bool:
    """Whether a folder holds nothing but what `write_video` writes."""
    return all(
        (p.is_file() and p.name in CLIP_FILES)
        or (
            re.fullmatch(r"person-\d+", p.name) is not None
            and p.is_dir()
            and not p.is_symlink()
            and all(file.is_file() and file.name in PERSON_FILES for file in p.iterdir())
        )
        for p in folder.iterdir()
    )
