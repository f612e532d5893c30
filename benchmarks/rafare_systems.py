"""What `benchmarks/rafare.py` compares: RAFaRe's levels, its controls, and parametric heads.

Everything that calls `lifemask.methods.rafare` and the pipeline for a pair is here. A system takes
the number of a pair and returns a mesh in mm in the frame of the pair's crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from lifemask.assets import UserError
from lifemask.data.pairs import Pair
from lifemask.evaluation._prediction_writer import detailed_mesh
from lifemask.evaluation._rafare_front import grid_mesh
from lifemask.evaluation.meshes import Triangles
from lifemask.evaluation.rafare import System, cube_to_mm, half_crop_mm, pixels_to_mm
from lifemask.graphics.camera import project
from lifemask.methods._rafare_field import FieldSampler, Surface
from lifemask.methods._rafare_lattice import create_room, crossing_cells
from lifemask.methods._rafare_view import EXPAND, Guide, create_view, face_mask
from lifemask.methods.rafare import RafarePredictConfig, RafarePredictor, load_rafare
from lifemask.pipeline import Pipeline
from lifemask.pipeline_config import PipelineConfig
from lifemask.types import Geometry

LEVELS: dict[str, dict[str, Any]] = {
    "base": {"level": "base"},
    "base+fine": {"level": "fine"},
    "base+fine+norm": {"level": "normals"},
    "base+fine+integrate": {"level": "normals", "carve": "integrate"},
    "base+fine+divergence": {"level": "normals", "carve": "divergence"},
}
"""The levels, normals as the weights' card uses them; and two other uses of the normals."""
FULL = "base+fine+norm"
BLIND, OTHER_IMAGE, OTHER_HEAD = "fine sees nothing", "other image", "other head"
TRUTH = "truth"
GUIDE, MEAN, CARRIED, DETAILED = "guide", "mean head", "carried head", "carried head with map"
HEAD = "parametric head"
"""The guide as a mesh: its depth map on the crop's pixels, which the networks see, is smoother."""
SOURCE = "surface that is carried"
"""What the carried heads start from. The levels have the pair's guide and regions instead."""
PIECES_GRID = 64


@dataclass(frozen=True)
class Asked:
    """How networks are asked.

    Attributes:
        weights: family.
        net: name of other weights in the weights folder; "" for the family's own.
        guide: hand them the pair's guide.
        grid: voxels along a side; None for the weights' own.
        threads: of torch.
    """

    weights: str = "open"
    net: str = ""
    guide: bool = True
    grid: int | None = None
    threads: int = 1


def load_predictor(asked: Asked) -> RafarePredictor:
    """The networks.

    Raises:
        AssetError: missing or broken weights.
    """
    config = RafarePredictConfig(guide=asked.guide, grid=asked.grid, weights=asked.net)
    return load_rafare(asked.weights, config, asked.threads)  # pyright: ignore[reportArgumentType]


def surface_of(
    predictor: RafarePredictor, pair: Pair, image: np.ndarray | None = None, **how: Any
) -> Surface | None:
    """A pair's surface in the cube; None where the networks find none.

    Args:
        predictor: the networks.
        pair: its regions, and its guide if the networks are asked with one.
        image: another picture in place of the pair's.
        how: level, `blind`, and changes of the field's settings.
    """
    guide = guide_of_pair(pair) if predictor.config.guide else None
    try:
        return predictor.surface(pair.image if image is None else image, pair.region, guide, **how)
    except UserError:
        return None


def piece_count(predictor: RafarePredictor, pair: Pair, grid: int = PIECES_GRID) -> int:
    """Connected pieces of the base's surface behind a pair's face, floaters and bubbles included.

    The base is asked at every voxel, and the walls around the face mask close the surface, as they
    do before all but its largest piece is dropped: a clean field gives 1.
    """
    from scipy.ndimage import label

    networks = predictor.networks
    config = replace(networks.config.field, grid=grid, evaluate="full")
    pixels = torch.from_numpy(np.ascontiguousarray(pair.image)).permute(2, 0, 1)[None].float() / 255
    region = torch.from_numpy(np.ascontiguousarray(pair.region))[None]
    guide = guide_of_pair(pair) if predictor.config.guide else None
    seen = () if guide is None else (guide.depth[None], guide.normals[None])
    base = networks.look(create_view(pixels, region, *seen), "base").base
    room = create_room(face_mask(region)[0], grid, config.erode, config.outer)
    field = FieldSampler(base, None, room, config).settle()
    return int(label(crossing_cells(room.wall(field)).numpy(), np.ones((3, 3, 3)))[1])


def guide_of_pair(pair: Pair) -> Guide:
    """What the parametric method said of a pair's image."""
    depth, normals = (np.asarray(a, np.float32) for a in (pair.guide_depth, pair.guide_normals))
    return Guide(torch.from_numpy(depth), torch.from_numpy(normals))


class Photos:
    """What the pipeline makes of a pair's image, its crop's square given.

    Args:
        pairs: held out.
        weights: family.
        threads: of the networks.
    """

    def __init__(self, pairs: Sequence[Pair], weights: str, threads: int = 1) -> None:
        self.pairs, self.weights, self.threads = pairs, weights, threads

    def _pipeline(self, method: str) -> Pipeline:
        weights: Any = self.weights
        return Pipeline(
            PipelineConfig(
                weights=weights,
                method=method,
                texture="none",
                refine=False,
                mouth=False,
                eyes=False,
                threads=self.threads,
            )
        )

    @cached_property
    def rafare(self) -> Pipeline:
        """With the surface carried onto the head."""
        return self._pipeline("rafare")

    @cached_property
    def guides(self) -> Pipeline:
        """The parametric method alone."""
        return self._pipeline("pgn")

    @lru_cache(maxsize=2)  # noqa: B019, one object lives as long as the run
    def geometry(self, method: str, number: int) -> Geometry | None:
        """The head in a pair's crop; None for a miss."""
        image = self.pairs[number].image
        half, middle = len(image) / 2 / EXPAND, len(image) / 2 - 0.5
        box = (middle - half, middle - half, middle + half, middle + half)
        pipeline = self.rafare if method == "rafare" else self.guides
        try:
            return pipeline.reconstruct_face(image, box).geometry
        except UserError:
            return None

    def carried(self, number: int) -> Triangles | None:
        """The head model that carries the surface."""
        geometry = self.geometry("rafare", number)
        return None if geometry is None else self._mesh(geometry, number)

    def surface(self, number: int) -> Triangles | None:
        """The surface that it carries, with the pipeline's own guide and regions."""
        geometry = self.geometry("rafare", number)
        if geometry is None or geometry.surface is None:
            return None
        pair, found = self.pairs[number], geometry.surface
        points = found.vertices_px.double().numpy()
        return pixels_to_mm(points, len(pair.image), half_crop_mm(pair)), found.faces.long().numpy()

    def detailed(self, number: int) -> Triangles | None:
        """The same, subdivided, with its displacement map."""
        geometry = self.geometry("rafare", number)
        if geometry is None:
            return None
        points, faces = detailed_mesh(geometry, self.rafare.model, geometry.vertices_mm)
        fine = replace(
            geometry, vertices_mm=torch.from_numpy(points), faces=torch.from_numpy(faces)
        )
        return self._mesh(fine, number)

    def parametric_head(self, number: int) -> Triangles | None:
        """The guide's own mesh, before anything is carried."""
        seen = self.geometry("pgn", number)
        return None if seen is None else self._mesh(seen, number)

    def mean_head(self, number: int) -> Triangles | None:
        """The mean head, placed as the parametric method sees the photo's."""
        model, seen = self.guides.model, self.geometry("pgn", number)
        if seen is None:
            return None
        still = torch.zeros(len(model.expression_names))
        mean = model(torch.zeros(model.identity_size), still)
        return self._mesh(replace(seen, vertices_mm=mean), number)

    def _mesh(self, geometry: Geometry, number: int) -> Triangles:
        pair = self.pairs[number]
        points = project(geometry.vertices_mm.float(), geometry.camera).double().numpy()
        size = len(pair.image)
        return pixels_to_mm(points, size, half_crop_mm(pair)), geometry.faces.long().numpy()


def depth_mesh(pair: Pair, depth: np.ndarray) -> Triangles | None:
    """A depth map (S, S) in half-crops on a pair's crop, its guide's or its truth's, as a mesh."""
    half = half_crop_mm(pair)
    mesh = grid_mesh(np.asarray(depth, np.float64) * half, half)
    return mesh if len(mesh[1]) else None


def create_systems(
    pairs: Sequence[Pair], predictors: dict[str, RafarePredictor], photos: Photos | None
) -> dict[str, System]:
    """All systems by name.

    Args:
        pairs: held out.
        predictors: by name; the first one gets levels and controls, the others base and full.
        photos: for heads of the pipeline; None leaves these out.
    """
    (_, first), *others = predictors.items()
    out = {name: _network(pairs, first, **how) for name, how in LEVELS.items()}
    full = out[FULL] = lru_cache(maxsize=2)(out[FULL])
    count = len(pairs)

    def another_image(number: int) -> Triangles | None:
        image = pairs[(number - 1) % count].image
        return _in_mm(pairs[number], surface_of(first, pairs[number], image, **LEVELS[FULL]))

    out[BLIND] = _network(pairs, first, blind=True, **LEVELS["base+fine"])
    out[OTHER_IMAGE] = another_image
    out[OTHER_HEAD] = lambda number: full((number - 1) % count)
    for name, predictor in others:
        for level in ("base", FULL):
            out[f"{name}: {level}"] = _network(pairs, predictor, **LEVELS[level])
    out[GUIDE] = lambda number: depth_mesh(pairs[number], pairs[number].guide_depth)
    out[TRUTH] = lambda number: depth_mesh(pairs[number], pairs[number].depth)
    if photos is not None:
        out |= {
            HEAD: photos.parametric_head,
            MEAN: photos.mean_head,
            SOURCE: photos.surface,
            CARRIED: photos.carried,
            DETAILED: photos.detailed,
        }
    return out


def _network(
    pairs: Sequence[Pair], predictor: RafarePredictor, **how: Any
) -> Callable[[int], Triangles | None]:
    return lambda number: _in_mm(pairs[number], surface_of(predictor, pairs[number], **how))


def _in_mm(pair: Pair, surface: Surface | None) -> Triangles | None:
    if surface is None:
        return None
    vertices = cube_to_mm(np.asarray(surface.vertices), half_crop_mm(pair))
    return vertices, np.asarray(surface.faces, np.int64)
