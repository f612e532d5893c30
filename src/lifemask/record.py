"""A head as plain numbers: the content of `params.json`, versioned; `docs/params-schema.md`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lifemask.types import Camera, MethodUse

if TYPE_CHECKING:
    from lifemask.head import Head

SCHEMA_VERSION = 1


def params_record(
    heads: Sequence[Head], photo_name: str, files: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """What `params.json` holds; plain numbers, schema in `docs/params.schema.json`.

    Args:
        heads: at least one, of one photo.
        photo_name: file name of the photo, "" if there is none.
        files: for each head the names of the files written.
    """
    from lifemask import __version__

    return {
        "schema_version": SCHEMA_VERSION,
        "lifemask_version": __version__,
        "photo": photo_name,
        "image_size": list(heads[0].image_size),
        "weights": heads[0].weights,
        "faces": [face_record(head, names) for head, names in zip(heads, files, strict=True)],
    }


def record_text(record: dict[str, Any]) -> str:
    """The record as indented JSON, a row of numbers on a line; no NaN."""
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    return re.sub(r"\[[-\d.e+,\s]+\]", lambda row: " ".join(row[0].split()), text) + "\n"


def face_record(head: Head, files: Sequence[str] = ()) -> dict[str, Any]:
    """One face of `params.json`."""
    residual = head.geometry.residual_px
    points_mm = head.geometry.landmarks68_mm
    return {
        "box": [round(v, 3) for v in head.face.box],
        "score": round(head.face.score, 4),
        "method": method_record(head.method),
        "person": person_record(head.person),
        "camera": camera_record(head.geometry.camera),
        "pose_deg": {name: round(value, 3) for name, value in head.pose_deg.items()},
        "model": head.geometry.model,
        "identity": _numbers(head.geometry.params and head.geometry.params.identity, 5),
        "expression": {name: round(value, 5) for name, value in head.expression.items()},
        "landmarks68_px": None if points_mm is None else _numbers(head.landmarks68_px, 3),
        "landmarks68_mm": _numbers(points_mm, 4),
        "light_sh": _numbers(head.appearance and head.appearance.lighting.sh, 5),
        "displacement": displacement_record(head, files),
        "residual_px": round(residual, 4) if math.isfinite(residual) else None,
        "files": list(files),
        "warnings": list(head.warnings),
    }


def method_record(method: MethodUse | None) -> dict[str, Any] | None:
    """How the geometry was found; None if that is not known."""
    if method is None:
        return None
    return {
        "name": method.name,
        "weights": method.weights,
        "refined": method.refined,
        "options": dict(method.options),
    }


def displacement_record(head: Head, files: Sequence[str]) -> dict[str, Any] | None:
    """How to read the displacement map; None for a head without one."""
    if head.geometry.detail is None:
        return None
    from lifemask.methods.surface_maps import (
        DISPLACEMENT_ENDING,
        DISPLACEMENT_STEPS_PER_MM,
        DISPLACEMENT_ZERO,
    )

    own = [name for name in files if name.endswith(DISPLACEMENT_ENDING)]
    return {
        "file": own[0] if own else None,
        "zero": DISPLACEMENT_ZERO,
        "steps_per_mm": DISPLACEMENT_STEPS_PER_MM,
    }


def person_record(photos: Sequence[str]) -> dict[str, Any] | None:
    """The photos of one person that share this face's identity; None for a single photo."""
    return {"photos": list(photos), "shared_identity": True} if photos else None


def camera_record(camera: Camera) -> dict[str, Any]:
    """A camera in plain numbers; the keys say the units."""
    rotation = _numbers(camera.rotation, 8)
    if camera.model == "orthographic":
        return {
            "model": camera.model,
            "rotation": rotation,
            "translation_px": _numbers(camera.translation[:2], 4),
            "scale_px_per_mm": float(camera.scale),
        }
    return {
        "model": camera.model,
        "rotation": rotation,
        "translation_mm": _numbers(camera.translation, 4),
        "f_px": float(camera.scale),
        "center_px": _numbers(camera.center, 4),
    }


def _numbers(values: Tensor | np.ndarray | None, digits: int) -> Any:
    """Nested lists of rounded floats; None stays None."""
    if values is None:
        return None
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.round(array.astype(np.float64), digits).tolist()
