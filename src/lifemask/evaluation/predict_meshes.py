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

from lifemask.assets import AssetError, UserError
from lifemask.evaluation._prediction_writer import (
    MeshKind,
    Shape,
    write_fitted_head,
    write_in_photo,
)
from lifemask.evaluation.meshes import META_NAME
from lifemask.evaluation.predict import map_meta
from lifemask.evaluation.score import load_entry, lookup

if TYPE_CHECKING:
    from lifemask.facemodel.base import FaceModel
    from lifemask.head import Head
    from lifemask.types import Face

Box = tuple[float, float, float, float]
MeshMethod = Literal["fit", "dasl", "pgn", "rafare", "mean"]
ALBEDO_PX = 512
FRAMES = 5
"""Frames of a video that are looked at."""
__all__ = ["MESH_DATASETS", "MeshDataset", "mean_head", "predict_meshes", "write_fitted_head"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeshDataset:
    """A benchmark whose predictions are meshes.

    Attributes:
        load: import string of `load(folder)`.
        shape: what the protocol compares: the face as in the photo, or without expression.
        views: keep pose, image points, neutral shape and albedo too (`head_files`).
        frame: "model", mm with landmarks; or "photo", half image sides as the photo shows it.
        free: the protocol can score a surface without a face model.
        video: items are videos or folders of frames (`data._video_frames`).
        protocols: keys of `score.PROTOCOLS` that score the predictions; empty: the set's name.
    """

    load: str
    shape: Shape
    views: bool = False
    frame: Literal["model", "photo"] = "model"
    free: bool = False
    video: bool = False
    protocols: tuple[str, ...] = ()


MESH_DATASETS = {
    "now": MeshDataset("lifemask.data.now:load_now", "neutral"),
    "realy": MeshDataset("lifemask.data.realy:load_realy", "photo"),
    "stirling": MeshDataset("lifemask.data.stirling:load_stirling", "neutral"),
    "synthetic_heads": MeshDataset(
        "lifemask.data.synthetic_heads:load_synthetic_heads", "photo", views=True, free=True
    ),
    "scans": MeshDataset("lifemask.data.scans:load_scans", "photo", free=True),
    "facescape_wild": MeshDataset(
        "lifemask.data.facescape:load_facescape_wild", "photo", frame="photo", free=True
    ),
    "facescape_lab": MeshDataset(
        "lifemask.data.facescape:load_facescape_lab", "photo", frame="photo", free=True
    ),
    "micc": MeshDataset(
        "lifemask.data.micc:load_micc",
        "neutral",
        free=True,
        video=True,
        protocols=("micc_deep3d", "micc_genova"),
    ),
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
    mesh: MeshKind = "head",
) -> Path:
    """Reconstruct every photo of a benchmark and write its head.

    Args:
        dataset: a key of `MESH_DATASETS`.
        data: the data set's folder.
        out: folder of the predictions, as `evaluation.meshes` and `head_files` describe them.
        weights: family of the networks' weights.
        method: "fit", "dasl", "pgn" and "rafare" are the whole pipeline with that method; "mean" is
            the baseline that looks at no photo: the mean head, frontal, in the middle of the box.
        box: "official" uses the benchmark's boxes where it has any, else as "detector": the
            largest face that our detector finds; none is a miss.
        threads: threads of the networks.
        resume: keep heads that are already in the folder, if it has the same settings.
        limit: predict the first photos only.
        progress: called with (photos done, photos).
        map_source: where 2DASL's input map comes from; None for its default.
        refine: let the photo's colours refine the method's shape, as the product does; it draws
            the methods together, because it asks our landmarker again.
        mesh: which of RAFaRe's meshes: "head", the head model that carries the surface, "detailed",
            the same with its displacement map, or "surface", the surface itself, always as in the
            photo. Other methods have the head only.

    Returns:
        The folder.

    Raises:
        UserError: unknown data set or method, unreadable data, photos that are not at hand, a mesh
            that the method or the protocol does not have, or a folder with predictions of other
            settings.
    """
    entry: MeshDataset = lookup(MESH_DATASETS, dataset, "mesh data set")
    if method not in get_args(MeshMethod):
        valid = ", ".join(get_args(MeshMethod))
        raise UserError(
            f"{dataset} is predicted as meshes; unknown method {method!r}; valid: {valid}"
        )
    _check_mesh(mesh, method, dataset, entry)
    photos: PhotoFiles = load_entry(entry.load)(data)
    if not photos.image_paths:
        raise UserError(f"the photos of {dataset} are not in {data}; only scoring works without")
    out = Path(out)
    meta = _meta(dataset, weights, method, box) | map_meta(method, map_source)
    meta |= {} if refine else {"refine": "off"}
    meta |= {} if mesh == "head" else {"mesh": mesh}
    run = _Runner(entry, weights, method, threads, map_source, refine, mesh)
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
        mesh: MeshKind,
    ) -> None:
        from lifemask.methods.texture import TextureConfig
        from lifemask.pipeline import Pipeline, PipelineConfig, dasl_settings

        config = PipelineConfig(
            weights=weights,
            method="fit" if method == "mean" else method,
            dasl=dasl_settings(method, map_source),
            refine=refine,
            mouth=refine,
            eyes=refine,
            texture="photo" if entry.views else "none",
            threads=threads,
            appearance=TextureConfig(size=ALBEDO_PX, part_size=64),
        )
        self.entry, self.method, self.pipeline = entry, method, Pipeline(config)
        self.mesh: MeshKind = mesh
        if method != "mean":  # missing weights are told before the folder is begun
            _ = self.pipeline.geometry_stage

    def __call__(self, path: Path, box: Box | None, out: Path, name: str) -> bool:
        """Write one head; False for a miss."""
        from lifemask.faces.choice import NoFaceError
        from lifemask.methods._rafare_carry import NoSurfaceError

        try:
            head = self._of_video(path) if self.entry.video else self._of_photo(path, box)
            if self.entry.frame == "photo":
                write_in_photo(out, name, head, self.mesh)
            else:
                entry = self.entry
                write_fitted_head(out, name, head, entry.shape, entry.views, self.mesh)
        except (NoFaceError, NoSurfaceError):
            return False
        return True

    def _of_photo(self, path: Path, square: Box | None) -> Head:
        from lifemask.faces.choice import usable_faces
        from lifemask.pipeline import read_photo

        image = read_photo(path)
        if self.method == "mean":
            return self._mean(image, square)
        return self._of_face(
            image, square or usable_faces(self.pipeline.find_faces(image), image)[0]
        )

    def _of_face(self, image: ndarray, face: Face | Box) -> Head:
        """One head; a face in which the networks find no surface is a miss like one not found."""
        from lifemask.methods._rafare_carry import NoSurfaceError

        try:
            return self.pipeline.reconstruct_face(image, face)
        except AssetError:
            raise
        except UserError as error:
            if self.method != "rafare":
                raise
            raise NoSurfaceError(str(error)) from error

    def _of_video(self, path: Path) -> Head:
        """One head of frames: their person, or for a surface the face that looks ahead most.

        Raises:
            NoFaceError: no frame shows a usable face.
        """
        from lifemask.data._video_frames import read_frames
        from lifemask.faces.choice import NoFaceError, usable_faces

        frames = read_frames(path, FRAMES)
        if self.method == "mean":
            return self._mean(frames[0], None)
        seen = []
        for image in frames:
            try:
                faces = usable_faces(self.pipeline.find_faces(image), image)
            except NoFaceError:
                continue
            seen.append((image, faces[0]))
        if not seen:
            raise NoFaceError(f"no frame of {path} shows a face")
        if self.method == "rafare":
            return self._of_face(*min(seen, key=lambda one: _turned(one[1])))
        images, faces = zip(*seen, strict=True)
        return self.pipeline.reconstruct_person(images, boxes=[face.box for face in faces])[0]

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


def _turned(face: Face) -> float:
    """How far the nose lies beside the middle of the eyes, in eye distances; 0 looks ahead."""
    if face.points5 is None:
        return 0.0
    left, right, nose = face.points5[:3, 0].tolist()
    return abs(nose - (left + right) / 2) / max(abs(right - left), 1e-6)


def _check_mesh(mesh: str, method: str, dataset: str, entry: MeshDataset) -> None:
    """Refuse a mesh that the method does not have or the protocol cannot score.

    Raises:
        UserError: the message says what else to ask for.
    """
    if mesh not in get_args(MeshKind):
        raise UserError(f"unknown mesh {mesh!r}; valid: {', '.join(get_args(MeshKind))}")
    if mesh != "head" and method != "rafare":
        raise UserError(f"method {method} has the mesh 'head' only; {mesh!r} belongs to rafare")
    if mesh == "surface" and not entry.free:
        raise UserError(f"{dataset} needs points all over a head: predict it with the mesh 'head'")


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
