"""`predict` for benchmarks of meshes: a folder with one head per photo; resumable."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import torch
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.evaluation._seven import SEVEN_FROM_68
from lifemask.evaluation.head_files import View, write_head
from lifemask.evaluation.meshes import META_NAME
from lifemask.evaluation.predict import map_meta
from lifemask.evaluation.score import load_entry, lookup

if TYPE_CHECKING:
    from lifemask.facemodel.base import FaceModel
    from lifemask.head import Head

Shape = Literal["photo", "neutral"]
Box = tuple[float, float, float, float]
MeshMethod = Literal["fit", "dasl", "pgn", "mean"]
ALBEDO_PX = 512
_LANDMARKS = ("ict68", "ibug68-3d-bfm")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshDataset:
    """A benchmark whose predictions are meshes.

    Attributes:
        load: import string of `load(folder)`.
        shape: what the protocol compares: the face as in the photo, or without expression.
        views: keep pose, image points, neutral shape and albedo too (`head_files`).
    """

    load: str
    shape: Shape
    views: bool = False


MESH_DATASETS = {
    "now": MeshDataset("lifemask.data.now:load_now", "neutral"),
    "realy": MeshDataset("lifemask.data.realy:load_realy", "photo"),
    "stirling": MeshDataset("lifemask.data.stirling:load_stirling", "neutral"),
    "synthetic_heads": MeshDataset(
        "lifemask.data.synthetic_heads:load_synthetic_heads", "photo", views=True
    ),
    "scans": MeshDataset("lifemask.data.scans:load_scans", "photo"),
}
"""Data sets by name; one entry each."""


class PhotoFiles(Protocol):
    """What a mesh benchmark must offer to be predicted: n names and n photos."""

    @property
    def names(self) -> tuple[str, ...]:
        """N names."""
        ...

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """N files."""
        ...


def predict_meshes(
    dataset: str,
    data: str | Path,
    out: str | Path,
    *,
    weights: Literal["open", "research"] = "research",
    method: MeshMethod = "fit",
    box: Literal["official", "detector"] = "official",
    threads: int = 1,
    resume: bool = True,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    map_source: str | None = None,
    refine: bool = True,
) -> Path:
    """Reconstruct every photo of a benchmark and write its head.

    Args:
        dataset: a key of `MESH_DATASETS`.
        data: the data set's folder.
        out: folder of the predictions, as `evaluation.meshes` and `head_files` describe them.
        weights: family of the networks' weights.
        method: "fit", "dasl" and "pgn" are the whole pipeline with that method; "mean" is the
            baseline that looks at no photo: the mean head, frontal, in the middle of the box.
        box: "official" uses the benchmark's boxes where it has any, else as "detector": the
            largest face that our detector finds; none is a miss.
        threads: threads of the networks.
        resume: keep heads that are already in the folder, if it has the same settings.
        limit: predict the first photos only.
        progress: called with (photos done, photos).
        map_source: where 2DASL's input map comes from; None for its default.
        refine: let the photo's colours refine the method's shape, as the product does; it draws
            the methods together, because it asks our landmarker again.

    Returns:
        The folder.

    Raises:
        UserError: unknown data set or method, unreadable data, photos that are not at hand, or a
            folder with predictions of other settings.
    """
    entry: MeshDataset = lookup(MESH_DATASETS, dataset, "mesh data set")
    if method not in get_args(MeshMethod):
        valid = ", ".join(get_args(MeshMethod))
        raise UserError(
            f"{dataset} is predicted as meshes; unknown method {method!r}; valid: {valid}"
        )
    photos: PhotoFiles = load_entry(entry.load)(data)
    if not photos.image_paths:
        raise UserError(f"the photos of {dataset} are not in {data}; only scoring works without")
    out = Path(out)
    meta = _meta(dataset, weights, method, box) | map_meta(method, map_source)
    meta |= {} if refine else {"refine": "off"}
    run = _Runner(entry, weights, method, threads, map_source, refine)
    _check_folder(out, meta, resume)
    boxes = getattr(photos, "boxes", None) if box == "official" else None
    count = len(photos.names) if limit is None else min(limit, len(photos.names))
    missed = 0
    for index in range(count):
        name = photos.names[index]
        if not (resume and (out / f"{name}.ply").is_file()):
            square = None if boxes is None else tuple(float(edge) for edge in boxes[index])
            missed += not run(photos.image_paths[index], square, out, name)  # pyright: ignore
        if progress:
            progress(index + 1, count)
    _log.info("%s: %d photos, %d missed", out, count, missed)
    return out


class _Runner:
    """Photo to files, with the networks loaded once."""

    def __init__(
        self,
        entry: MeshDataset,
        weights: Any,
        method: MeshMethod,
        threads: int,
        map_source: str | None,
        refine: bool,
    ) -> None:
        from lifemask.methods.texture import TextureConfig
        from lifemask.pipeline import Pipeline, PipelineConfig, dasl_settings

        config = PipelineConfig(
            weights=weights,
            method="fit" if method == "mean" else method,
            dasl=dasl_settings(method, map_source),
            refine=refine,
            texture="photo" if entry.views else "none",
            threads=threads,
            appearance=TextureConfig(size=ALBEDO_PX, part_size=64),
        )
        self.entry, self.method, self.pipeline = entry, method, Pipeline(config)
        if method != "mean":  # missing weights are told before the folder is begun
            _ = self.pipeline.geometry_stage

    def __call__(self, photo: Path, box: Box | None, out: Path, name: str) -> bool:
        """Write one head; False for a miss."""
        from lifemask.faces.choice import NoFaceError
        from lifemask.pipeline import read_photo

        image = read_photo(photo)
        try:
            head = self._mean(image, box) if self.method == "mean" else self._head(image, box)
        except NoFaceError:
            return False
        write_fitted_head(out, name, head, self.entry.shape, self.entry.views)
        return True

    def _head(self, image: ndarray, box: Box | None) -> Head:
        if box is None:
            return self.pipeline(image)[0]
        return self.pipeline.reconstruct_face(image, box)

    def _mean(self, image: ndarray, box: Box | None) -> Head:
        height, width = image.shape[:2]
        square = box or (-0.5, -0.5, width - 0.5, height - 0.5)
        return mean_head(self.pipeline.model, square, (width, height))


@torch.no_grad()
def mean_head(model: FaceModel, box: Box, image_size: tuple[int, int]) -> Head:
    """The head that knows no photo: mean shape, frontal, its landmarks framed by the box."""
    from lifemask.faces.crop import square_box
    from lifemask.graphics.camera import orthographic_camera
    from lifemask.head import Head
    from lifemask.types import Face, Geometry, ModelParams

    params = ModelParams(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    vertices = model(params.identity, params.expression)
    flat = model.landmarks(vertices, "ibug68-3d-bfm") * torch.tensor([1.0, -1.0, 1.0])
    (u, v), side = square_box(flat)
    scale = (box[2] - box[0]) / side
    shift = torch.tensor([(box[0] + box[2]) / 2 - scale * u, (box[1] + box[3]) / 2 - scale * v])
    camera = orthographic_camera(torch.eye(3), scale, shift)
    geometry = Geometry(
        vertices, model.topology.faces, camera, model.name, params,
        model.landmarks(vertices, "ict68"),
    )  # fmt: skip
    return Head(Face(box, 1.0), geometry, None, image_size, "open", model)


@torch.no_grad()
def write_fitted_head(folder: Path, name: str, head: Head, shape: Shape, views: bool) -> None:
    """Write a reconstructed head as a prediction.

    Args:
        folder: of the predictions.
        name: of the item.
        head: with its face model.
        shape: which shape is the prediction's mesh.
        views: also write pose, image points, neutral shape and albedo.
    """
    from lifemask.graphics.camera import project

    model, geometry = head.model, head.geometry
    if model is None or geometry.params is None:
        raise ValueError("only heads of a face model are written")
    faces = geometry.faces.numpy()
    still = torch.zeros_like(geometry.params.expression)
    neutral = model(geometry.params.identity, still)
    vertices = neutral if shape == "neutral" else geometry.vertices_mm
    landmarks = {s: model.landmarks(vertices, s).numpy() for s in _LANDMARKS}
    seven = landmarks["ict68"][list(SEVEN_FROM_68)]
    view = None
    if views:
        points = {
            s: project(model.landmarks(geometry.vertices_mm, s), geometry.camera)[:, :2].numpy()
            for s in _LANDMARKS
        }
        view = View(geometry.camera.rotation.double().numpy(), points)
    albedo = head.appearance.albedo.numpy() if views and head.appearance is not None else None
    write_head(
        folder,
        name,
        (vertices.numpy(), faces),
        landmarks_mm=landmarks | {"now7": seven, "stirling7": seven},
        view=view,
        neutral=(neutral.numpy(), faces) if views else None,
        albedo=albedo,
    )


def _meta(dataset: str, weights: str, method: str, box: str) -> dict[str, str]:
    from lifemask import __version__

    return {
        "system": f"lifemask {__version__}",
        "dataset": dataset,
        "method": method,
        "weights": weights,
        "box": box,
    }


def _check_folder(out: Path, meta: dict[str, str], resume: bool) -> None:
    """Begin the folder, or see that it belongs to this run."""
    path = out / META_NAME
    if path.is_file() and resume:
        old = json.loads(path.read_text(encoding="utf-8"))
        if old != meta:
            raise UserError(f"{out} holds predictions of other settings; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
