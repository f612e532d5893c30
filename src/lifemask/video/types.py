"""What a clip becomes: settings, a person's motion frame by frame, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifemask.assets import UserError
from lifemask.export import neutral_and_deltas
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import euler_deg_from_rotation, orthographic_camera, project
from lifemask.head import Head
from lifemask.pipeline_config import check_choice
from lifemask.types import Face, Geometry, ModelParams
from lifemask.video.smoothing import MODES, SmootherConfig
from lifemask.video.tracking import TrackerConfig

METHODS = ("pgn", "dasl")


@dataclass(frozen=True)
class VideoConfig:
    """What is run on a clip.

    Attributes:
        method: network that reads each frame: "pgn", or "dasl" (2DASL).
        weights: family of the networks, "open" or "research".
        flip: PGN looks at the mirrored crop, too: half the speed, less noise.
        threads: of the networks, which are too small to share; 0 lets onnxruntime choose.
        tracker: how faces are told apart, and how often the detector looks; its `max_gap` follows
            from `max_gap_seconds`.
        smoother: how the motion is smoothed.
        identity_frames: frames from which the identity is told: sharp, large, from several sides.
        min_seconds: a person who is seen for less is left out.
        max_gap_seconds: a person who is lost for longer comes back as another; shorter gaps are
            filled in.
        texture: how the head gets its colour, see `PipelineConfig.texture`.
        mouth: read the lips from a close-up of the mouth in every frame.
        eyes: read lids and gaze from close-ups of the eyes in every frame.
        refine: let the colours of the textured frame refine its pose and expression first.
    """

    method: Literal["pgn", "dasl"] = "pgn"
    weights: Literal["open", "research"] = "open"
    flip: bool = True
    threads: int = 1
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    smoother: SmootherConfig = field(default_factory=SmootherConfig)
    identity_frames: int = 12
    min_seconds: float = 0.2
    max_gap_seconds: float = 1.0
    texture: str = "auto"
    refine: bool = True
    mouth: bool = True
    eyes: bool = True

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            UserError: a choice is unknown or makes no sense.
        """
        check_choice("method for video", self.method, METHODS)
        check_choice("weights", self.weights, ("open", "research"))
        check_choice("smoothing", self.smoother.mode, MODES)
        if self.identity_frames < 1 or self.min_seconds < 0 or self.max_gap_seconds < 0:
            raise UserError("identity_frames must be at least 1, lengths of time not negative")


@dataclass(frozen=True)
class PersonTrack:
    """One person in a clip: a head that stays, and its motion over t consecutive frames.

    Attributes:
        number: of the person, from 1.
        fps: frames per second.
        frame: (t,) numbers of the frames, consecutive.
        rotation: (t, 3, 3) model frame to camera frame.
        scale: (t,) px per mm.
        translation_px: (t, 2) where the model's origin appears.
        expression: (t, e) in the face model's range.
        measured_px: (t, 68, 2) "ict68" landmarks of the frame by itself, identity held, not
            smoothed; NaN where nothing was measured.
        seen: (t,) False in a gap that was filled in.
        score: (t,) how sure the network is, in [0, 1]; 0 in gaps.
        identity_frames: frames from which the identity was told.
        texture_frame: the frame that gave the texture.
        head: the head in that frame, textured.
        image_size: (width, height) of the clip in px.
        smoothing: how the motion was smoothed.
    """

    number: int
    fps: float
    frame: Int[np.ndarray, " t"]
    rotation: Float[np.ndarray, "t 3 3"]
    scale: Float[np.ndarray, " t"]
    translation_px: Float[np.ndarray, "t 2"]
    expression: Float[np.ndarray, "t e"]
    measured_px: Float[np.ndarray, "t 68 2"]
    seen: Bool[np.ndarray, " t"]
    score: Float[np.ndarray, " t"]
    identity_frames: tuple[int, ...]
    texture_frame: int
    head: Head = field(repr=False)
    image_size: tuple[int, int]
    smoothing: str

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frame)

    @property
    def model(self) -> FaceModel:
        """The face model."""
        assert self.head.model is not None
        return self.head.model

    @property
    def time_s(self) -> Float[np.ndarray, " t"]:
        """(t,) seconds since the clip's first frame."""
        return self.frame / self.fps

    @property
    def pose_deg(self) -> Float[np.ndarray, "t 3"]:
        """(t, 3) pitch, yaw, roll of each frame, see docs/conventions.md."""
        return euler_deg_from_rotation(torch.from_numpy(self.rotation)).numpy()

    @cached_property
    def neutral_and_deltas(self) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "e v 3"]]:
        """The neutral head and what each expression adds at 1; mm, model frame."""
        return neutral_and_deltas(self.head.geometry, self.model)

    def vertices_mm(self, index: int) -> Float[Tensor, "v 3"]:
        """(v, 3) of the frame with this index in the track, model frame."""
        neutral, deltas = self.neutral_and_deltas
        expression = torch.from_numpy(self.expression[index]).to(deltas)
        return neutral + torch.einsum("e,evc->vc", expression, deltas)

    def geometry_at(self, index: int) -> Geometry:
        """Shape and camera of the frame with this index in the track."""
        vertices = self.vertices_mm(index)
        geometry = self.head.geometry
        assert geometry.params is not None
        rotation = torch.from_numpy(self.rotation[index]).to(vertices)
        shift = torch.from_numpy(self.translation_px[index]).to(vertices)
        camera = orthographic_camera(rotation, float(self.scale[index]), shift)
        expression = torch.from_numpy(self.expression[index]).to(vertices)
        return replace(
            geometry,
            vertices_mm=vertices,
            camera=camera,
            params=ModelParams(geometry.params.identity, expression),
            landmarks68_mm=self.model.landmarks(vertices, "ict68"),
            residual_px=float("nan"),
            map_vertices_px=None,
            uncertainty_px=None,
        )

    def head_at(self, index: int) -> Head:
        """The textured head as it is in the frame with this index in the track."""
        geometry = self.geometry_at(index)
        assert geometry.landmarks68_mm is not None
        points = project(geometry.landmarks68_mm, geometry.camera)[:, :2]
        box = (*points.amin(0).tolist(), *points.amax(0).tolist())
        head = replace(self.head, geometry=geometry, face=Face(box, float(self.score[index])))
        vars(head)["transfer"] = self.head.transfer  # shadows hardly change with the expression
        return head

    def landmarks68_px(self) -> Float[np.ndarray, "t 68 2"]:
        """(t, 68, 2) "ict68" landmarks of every frame in px, smoothed as the rest."""
        embedding = self.model.landmark_embeddings["ict68"]
        ids, weights = embedding.vertex_ids, embedding.barycentric
        neutral, deltas = self.neutral_and_deltas
        rest = (neutral[ids] * weights[..., None]).sum(-2)
        each = (deltas[:, ids] * weights[..., None]).sum(-2)
        points = rest + torch.einsum(
            "te,evc->tvc", torch.from_numpy(self.expression).to(each), each
        )
        turned = (points.double() @ torch.from_numpy(self.rotation).double().mT).numpy()
        flat = turned[..., :2] * [1, -1] * self.scale[:, None, None]
        return flat + self.translation_px[:, None]


@dataclass(frozen=True)
class VideoResult:
    """What was found in a clip.

    Attributes:
        people: their tracks, longest times size first.
        name: of the clip.
        fps: frames per second.
        frames: how many were read.
        size: (width, height) in px.
        cuts: frames at which a new scene begins.
        warnings: what to know before trusting the result, one line each.
        seconds: spent, by stage.
    """

    people: tuple[PersonTrack, ...]
    name: str
    fps: float
    frames: int
    size: tuple[int, int]
    cuts: tuple[int, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
