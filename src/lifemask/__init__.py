"""lifemask: a cast of a living face from one photograph.

    head = lifemask.reconstruct("photo.jpg")
    head.export("head.glb")

Importing the package does nothing; the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from lifemask.api import reconstruct as reconstruct
    from lifemask.api import reconstruct_all as reconstruct_all
    from lifemask.api import reconstruct_person as reconstruct_person
    from lifemask.assets import UserError as UserError
    from lifemask.assets import weights_path as weights_path
    from lifemask.facemodel import load_face_model as load_face_model
    from lifemask.faces.detect import load_detector as load_detector
    from lifemask.faces.image import load_image as load_image
    from lifemask.faces.landmarker import load_landmarker as load_landmarker
    from lifemask.head import Head as Head
    from lifemask.outputs import write_heads as write_heads
    from lifemask.pipeline import Pipeline as Pipeline
    from lifemask.pipeline import PipelineConfig as PipelineConfig
    from lifemask.relighting import turntable as turntable

_PUBLIC = {
    "Head": "lifemask.head",
    "Pipeline": "lifemask.pipeline",
    "PipelineConfig": "lifemask.pipeline",
    "UserError": "lifemask.assets",
    "load_detector": "lifemask.faces.detect",
    "load_face_model": "lifemask.facemodel",
    "load_image": "lifemask.faces.image",
    "load_landmarker": "lifemask.faces.landmarker",
    "reconstruct": "lifemask.api",
    "reconstruct_all": "lifemask.api",
    "reconstruct_person": "lifemask.api",
    "turntable": "lifemask.relighting",
    "weights_path": "lifemask.assets",
    "write_heads": "lifemask.outputs",
}

__all__ = [
    "Head",
    "Pipeline",
    "PipelineConfig",
    "UserError",
    "__version__",
    "load_detector",
    "load_face_model",
    "load_image",
    "load_landmarker",
    "reconstruct",
    "reconstruct_all",
    "reconstruct_person",
    "turntable",
    "weights_path",
    "write_heads",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "__version__":
        return _version()
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lifemask")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0.0.0"
