"""A clip becomes people: follow faces, tell each identity, solve, smooth, texture one head."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from lifemask.facemodel.base import FaceModel
from lifemask.faces.choice import NoFaceError
from lifemask.faces.detect import DetectorConfig, load_detector
from lifemask.faces.eyes import EyeReading, load_eyes
from lifemask.faces.mouth import MouthReading, load_mouth
from lifemask.graphics.camera import orthographic_camera
from lifemask.head import Head
from lifemask.methods._eyes import has_lids, moved_expressions
from lifemask.methods._mouth import has_mouth, moved_mouths
from lifemask.methods._stage import FaceInput
from lifemask.nn.parametric import LENGTH_MM
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.types import Face, Geometry, ModelParams
from lifemask.video.following import Candidate, Follower, Trail
from lifemask.video.frames import Clip, open_clip
from lifemask.video.reading import FaceReader, Poses, load_reader, solve_poses
from lifemask.video.smoothing import Motion, smooth_motion
from lifemask.video.types import PersonTrack, VideoConfig, VideoResult

Rgb = UInt8[np.ndarray, "h w 3"]
Told = Callable[[int], None]
QUICK_PX, THOROUGH_PX = 416, 1024


def reconstruct_video(
    source: str | Path | Sequence[np.ndarray] | Clip,
    config: VideoConfig | None = None,
    *,
    fps: float | None = None,
    on_frame: Told | None = None,
) -> list[PersonTrack]:
    """The people of a clip; see `VideoReconstructor`.

    Args:
        source: a clip, or what `open_clip` takes: a video, a folder or pattern of pictures, frames.
        config: what is run; None for the defaults.
        fps: frames per second of pictures.
        on_frame: told the number of each frame that was read.

    Raises:
        UserError: no such clip, nobody in it, missing weights, ...; one line, with the remedy.
    """
    clip = source if isinstance(source, Clip) else open_clip(source, fps)
    return list(VideoReconstructor(config)(clip, on_frame).people)


class VideoReconstructor:
    """The networks of a video, loaded once, used for any number of clips.

    Args:
        config: what is run; None for the defaults.
        reader: in place of the shipped network.
        detectors: in place of CenterFace, quick to thorough.
        pipeline: makes the textured head; None for one with the settings of `config`.
    """

    def __init__(
        self,
        config: VideoConfig | None = None,
        *,
        reader: FaceReader | None = None,
        detectors: Sequence[Callable[[Rgb], list[Face]]] | None = None,
        pipeline: Pipeline | None = None,
    ) -> None:
        self.config = config = config or VideoConfig()
        self.pipeline = pipeline or Pipeline(
            PipelineConfig(
                weights=config.weights,
                method=config.method,
                texture=config.texture,
                refine=config.refine,
                mouth=config.mouth,
                eyes=config.eyes,
                threads=config.threads,
            )
        )
        self.model: FaceModel = self.pipeline.model
        self.reader = reader or load_reader(
            config.method, config.weights, self.model, flip=config.flip, threads=config.threads
        )
        self.detectors = detectors or _detectors(config.threads)
        looks, speaks = config.eyes and has_lids(self.model), config.mouth and has_mouth(self.model)
        self.eyes = load_eyes(threads=config.threads) if looks else None
        self.mouth = load_mouth(threads=config.threads) if speaks else None

    def __call__(self, clip: Clip, on_frame: Told | None = None) -> VideoResult:
        """Everybody in a clip, read once from its start to its end.

        Raises:
            NoFaceError: nobody is seen for long enough.
            UserError: the clip cannot be read.
        """
        follower = self.follow(clip, on_frame)
        seconds = dict(follower.seconds)
        frames = follower.frame + 1
        least = max(1, round(self.config.min_seconds * clip.fps))
        if frames < least:
            least = frames
        trails = [t for t in follower.trails.values() if len(t.frames) >= least]
        if not trails:
            raise NoFaceError(
                f"{clip.name}: no face is seen in it for {self.config.min_seconds:g} s"
                f" ({frames} frames); a face needs 32 px"
            )
        trails.sort(key=lambda t: -_weight(t))
        start = time.perf_counter()
        people = tuple(
            self.person(trail, number, clip) for number, trail in enumerate(trails, start=1)
        )
        seconds["heads"] = time.perf_counter() - start
        for trail in follower.trails.values():
            trail.rows.close()
        warnings = _warnings(clip, frames)
        told = (clip.name, clip.fps, frames, clip.size, tuple(follower.cuts), warnings)
        return VideoResult(people, *told, seconds)

    def follow(self, clip: Clip, on_frame: Told | None = None) -> Follower:
        """What was seen of everybody, frame by frame; the part that must keep up with a camera."""
        config = self.config
        gap = max(1, round(config.max_gap_seconds * clip.fps))
        follower = Follower(
            self.reader,
            self.detectors,
            _with_gap(config, gap),
            config.identity_frames,
            clip.fps,
            self.eyes,
            self.mouth,
        )
        began = time.perf_counter()
        for image in clip.frames():
            follower.seconds["decode"] += time.perf_counter() - began
            follower(image)
            if on_frame is not None:
                on_frame(follower.frame)
            began = time.perf_counter()
        return follower

    def person(self, trail: Trail, number: int, clip: Clip) -> PersonTrack:
        """The head and the motion behind what was seen of a person."""
        chosen = chosen_frames(trail, self.config.identity_frames)
        features = torch.from_numpy(np.stack([c.reading.features for c in chosen]))
        identity = self.reader.identity(features).float()
        frame = np.arange(trail.frames[0], trail.frames[-1] + 1)
        seen = np.isin(frame, trail.frames)
        poses, expression, doubt = self._solved(trail, identity)
        motion = _motion(poses, expression, doubt, seen)
        smooth = smooth_motion(motion, self.config.smoother)
        size = _head_size_px(poses)
        scale = np.exp(smooth.log_scale)
        low, high = (self.reader.head.get_buffer(n).numpy() for n in ("lowest", "highest"))
        origin = self._origin(smooth.rotation, scale, smooth.position * size)
        score = np.zeros(len(frame))
        score[seen] = trail.scores
        return PersonTrack(
            number=number,
            fps=clip.fps,
            frame=frame,
            rotation=smooth.rotation,
            scale=scale,
            translation_px=origin,
            expression=np.clip(smooth.expression, low, high),
            measured_px=self._measured(poses, identity, expression, seen),
            seen=seen,
            score=score,
            identity_frames=tuple(sorted(c.frame for c in chosen)),
            texture_frame=_texture_candidate(trail).frame,
            head=self._head(trail, identity, clip),
            image_size=clip.size,
            smoothing=self.config.smoother.mode,
        )

    def _solved(self, trail: Trail, identity: torch.Tensor) -> tuple[Poses, np.ndarray, np.ndarray]:
        """Poses, expressions and doubts of the frames of a trail, one identity held."""
        count, expressions = len(self.reader.ids), self.reader.head.expression_size
        parts: list[tuple[Poses, np.ndarray, np.ndarray]] = []
        for start in range(0, trail.rows.count, 1024):
            rows = trail.rows.read(start, start + 1024)
            ends = np.cumsum([3 * count, count, expressions, 2 * (self.mouth is not None)])
            points, log_beta, expression, mouth, eyes = np.split(rows, ends, axis=1)
            points = points.reshape(-1, count, 3)
            poses = solve_poses(self.reader, identity, points, log_beta, expression)
            seen = self._with_mouth(identity, expression, mouth)
            seen = self._with_eyes(identity, seen, eyes)
            parts.append((poses, seen, np.exp(log_beta.mean(1))))
        poses = Poses(
            np.concatenate([p.rotation for p, _, _ in parts]),
            np.concatenate([p.scale for p, _, _ in parts]),
            np.concatenate([p.pivot_px for p, _, _ in parts]),
        )
        doubt = np.concatenate([d for _, _, d in parts])
        return poses, np.concatenate([e for _, e, _ in parts]), doubt / np.median(doubt)

    def _with_mouth(
        self, identity: torch.Tensor, expression: np.ndarray, mouth: np.ndarray
    ) -> Float[np.ndarray, "t e"]:
        """Expressions with what was read of the lips; as they are where nothing was."""
        if not mouth.shape[1]:
            return expression
        readings = MouthReading.of_rows(mouth.astype(np.float64))
        points = self._points68(identity, expression)
        moved = moved_mouths(readings, points, expression, self.model, identity)
        return moved.astype(np.float32)

    def _with_eyes(
        self, identity: torch.Tensor, expression: np.ndarray, eyes: np.ndarray
    ) -> Float[np.ndarray, "t e"]:
        """Expressions with what was read of the eyes; as they are where nothing was."""
        if not eyes.shape[1]:
            return expression.copy()
        readings = EyeReading.of_rows(eyes.astype(np.float64))
        points = self._points68(identity, expression)
        moved = moved_expressions(readings, points, expression, self.model, identity)
        return moved.astype(np.float32)

    def _points68(
        self, identity: torch.Tensor, expression: np.ndarray
    ) -> Float[np.ndarray, "t 68 3"]:
        """The "ict68" points of heads with one identity, mm."""
        found = []
        for given in torch.from_numpy(expression).split(64):
            with torch.no_grad():
                vertices = self.model(identity.expand(len(given), -1), given)
            found.append(self.model.landmarks(vertices, "ict68").double().numpy())
        return np.concatenate(found)

    def _origin(
        self, rotation: np.ndarray, scale: np.ndarray, pivot_px: np.ndarray
    ) -> Float[np.ndarray, "t 2"]:
        """Where the model's origin appears when its middle appears at `pivot_px`."""
        pivot = self.reader.head.get_buffer("pivot").double().numpy() * LENGTH_MM
        turned = (rotation @ pivot)[:, :2] * scale[:, None]
        return pivot_px - turned * [1, -1]

    def _measured(
        self, poses: Poses, identity: torch.Tensor, expression: np.ndarray, seen: np.ndarray
    ) -> Float[np.ndarray, "t 68 2"]:
        """Landmarks of each frame by itself; NaN in gaps."""
        result = np.full((len(seen), 68, 2), np.nan)
        turned = self._points68(identity, expression) @ poses.rotation.transpose(0, 2, 1)
        flat = turned[..., :2] * [1, -1] * poses.scale[:, None, None]
        origin = self._origin(poses.rotation, poses.scale, poses.pivot_px)
        result[seen] = flat + origin[:, None]
        return result

    def _head(self, trail: Trail, identity: torch.Tensor, clip: Clip) -> Head:
        """The textured head of the best frontal frame, the identity held."""
        best = _texture_candidate(trail)
        image = best.image
        if image is None:  # nobody faced the camera: the frame is read again
            image = next(x for k, x in enumerate(clip.frames()) if k == best.frame)
        reading = best.reading
        given = (reading.points_px[None], reading.log_beta[None], reading.expression[None])
        poses = solve_poses(self.reader, identity, *given)
        origin = self._origin(poses.rotation, poses.scale, poses.pivot_px)
        geometry = self._geometry(identity, reading.expression, poses, origin)
        face = Face(reading.box, reading.score)
        pipeline = self.pipeline
        landmarks = pipeline.find_landmarks(image, face) if pipeline.config.refine else None
        seen = FaceInput(image, face, landmarks)
        return pipeline.finish(seen, geometry, person=(f"frame {best.frame}",))

    def _geometry(
        self, identity: torch.Tensor, expression: np.ndarray, poses: Poses, origin: np.ndarray
    ) -> Geometry:
        given = torch.from_numpy(expression)
        with torch.no_grad():
            vertices = self.model(identity, given)
        camera = orthographic_camera(
            torch.from_numpy(poses.rotation[0]).float(),
            float(poses.scale[0]),
            torch.from_numpy(origin[0]).float(),
        )
        return Geometry(
            vertices_mm=vertices,
            faces=self.model.topology.faces,
            camera=camera,
            model=self.model.name,
            params=ModelParams(identity, given),
            landmarks68_mm=self.model.landmarks(vertices, "ict68"),
        )


def chosen_frames(trail: Trail, count: int) -> list[Candidate]:
    """The frames that tell the identity: in turn the best of each side of the face.

    Those less than half as good as the best one are left out.
    """
    sides = [found for found in trail.candidates.values() if found]
    best = max(c.worth for found in sides for c in found)
    ranked = [c for rank in range(count) for found in sides for c in found[rank : rank + 1]]
    good = [c for c in ranked if c.worth >= 0.5 * best]
    return good[:count]


def _texture_candidate(trail: Trail) -> Candidate:
    """The sharpest frame that shows the face from the front."""
    every = [c for found in trail.candidates.values() for c in found]
    return max(every, key=lambda c: (c.image is not None, c.worth * (1 - abs(c.yaw))))


def _motion(poses: Poses, expression: np.ndarray, doubt: np.ndarray, seen: np.ndarray) -> Motion:
    """The frames of a track as a motion, gaps left open."""

    def spread(values: np.ndarray) -> np.ndarray:
        result = np.zeros((len(seen), *values.shape[1:]))
        result[seen] = values
        return result

    rotation = spread(poses.rotation)
    rotation[~seen] = np.eye(3)
    relative = np.ones(len(seen))
    relative[seen] = np.clip(doubt, 0.5, 4.0)
    position = spread(poses.pivot_px / _head_size_px(poses))
    log_scale = spread(np.log(poses.scale))
    return Motion(rotation, log_scale, position, spread(expression), seen, relative)


def _head_size_px(poses: Poses) -> float:
    """Length of 100 mm in px, over the clip: the unit of positions."""
    return float(np.median(poses.scale) * LENGTH_MM)


def _weight(trail: Trail) -> float:
    """Length of a trail times the size of its face."""
    sides = [c.reading.square[1] for found in trail.candidates.values() for c in found]
    return len(trail.frames) * (float(np.median(sides)) if sides else 0.0)


def _with_gap(config: VideoConfig, frames: int):
    return replace(config.tracker, max_gap=frames)


def _warnings(clip: Clip, frames: int) -> tuple[str, ...]:
    if clip.expected is not None and frames < 0.9 * clip.expected - 2:
        return (f"the clip breaks off: {frames} of {clip.expected} frames could be read",)
    return ()


def _detectors(threads: int) -> list[Callable[[Rgb], list[Face]]]:
    """CenterFace at two sizes; the larger one also for faces that fill the frame."""
    quick = DetectorConfig(long_sides_px=(QUICK_PX,), frame=0.0, threads=threads)
    thorough = DetectorConfig(long_sides_px=(THOROUGH_PX, QUICK_PX), threads=threads)
    return [load_detector(quick), load_detector(thorough)]
