"""What the pipeline does with a free surface: it is carried onto the head, or is the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from lifemask.assets import AssetError, UserError
from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions
from lifemask.methods._rafare_carry import NoSurfaceError, carry_surface, free_geometry
from lifemask.methods._rafare_stage import SurfaceFinder
from lifemask.methods._stage import installed_weights, moved
from lifemask.nn.shipped import Engine
from lifemask.types import FreeSurface, Geometry

if TYPE_CHECKING:
    from lifemask.methods.rafare import RafarePredictConfig


def detailed_head(
    geometry: Geometry,
    model: FaceModel,
    found: Callable[[Geometry], FreeSurface],
    regions: Regions | None = None,
    *,
    needed: bool = False,
) -> Geometry:
    """A head with its own free surface, or else the one that is found, carried onto it.

    Args:
        geometry: head of the model, on any device.
        model: on the CPU.
        found: finds a surface from the head (on the CPU) where the method brought none.
        regions: of the photo.
        needed: a face without a surface is an error; else its head stays as it is.

    Raises:
        AssetError: the networks' weights are missing.
        UserError: the photo shows too little of the face, where that is an error.
    """
    head = moved(geometry, "cpu")
    try:
        carried = carry_surface(head, head.surface or found(head), model, regions=regions)
    except AssetError:
        raise
    except UserError:
        if needed:
            raise
        return geometry
    return moved(carried, str(geometry.vertices_mm.device))


def load_finder(
    weights: Literal["open", "research"],
    model: str,
    config: RafarePredictConfig | None = None,
    threads: int = 0,
    engine: Engine = "onnx",
) -> SurfaceFinder:
    """The shipped networks, for heads of a face model.

    Raises:
        AssetError: their weights are missing or damaged.
    """
    installed_weights("rafare", weights, model)
    from lifemask.methods.rafare import load_rafare

    return load_rafare(weights, config, threads, engine)


def bare_surface(geometry: Geometry, model: FaceModel) -> Geometry:
    """The free surface of a geometry as the geometry, without the head model.

    Raises:
        UserError: there is none, or it covers too little of the face.
    """
    if geometry.surface is None:
        raise NoSurfaceError("the photo shows no surface of the face; use --method pgn")
    return free_geometry(geometry, geometry.surface, model)
