"""Clips to animated heads: one identity over the clip, pose and expression smooth over time."""

from __future__ import annotations

from lifemask.video.frames import Clip, ClipError, open_clip
from lifemask.video.reconstruct import VideoReconstructor, reconstruct_video
from lifemask.video.smoothing import Motion, OneEuroConfig, SmootherConfig, smooth_motion
from lifemask.video.types import PersonTrack, VideoConfig, VideoResult

__all__ = [
    "Clip",
    "ClipError",
    "Motion",
    "OneEuroConfig",
    "PersonTrack",
    "SmootherConfig",
    "VideoConfig",
    "VideoReconstructor",
    "VideoResult",
    "open_clip",
    "reconstruct_video",
    "smooth_motion",
]
