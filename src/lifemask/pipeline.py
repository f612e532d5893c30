"""A photo becomes heads: detect -> landmarks -> geometry -> refinement -> appearance -> `Head`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from lifemask.assets import UserError, weights_folder
from lifemask.facemodel.base import FaceModel
from lifemask.faces.choice import (
    NoFaceError,
    face_of_box,
    face_of_landmarks,
    largest_first,
    side_px,
    usable_faces,
)
from lifemask.faces.crop import Box, cut_window
from lifemask.faces.detect import Detector, DetectorConfig
from lifemask.faces.image import as_uint8_rgb, load_image
from lifemask.faces.parsing import Parser, Regions, load_parser
from lifemask.graphics.camera import camera_for_crop, project
from lifemask.head import Head
from lifemask.methods._stage import FaceInput, GeometryStage, StageSetup
from lifemask.methods.fitting import FitConfig
from lifemask.types import Appearance, Face, Geometry, Landmarks, MethodUse

if TYPE_CHECKING:
    from PIL import Image

    from lifemask.methods.dasl import DaslPredictConfig
    from lifemask.methods.photometric import PhotometricConfig
    from lifemask.methods.texture import TextureConfig

log = logging.getLogger(__name__)

SQUARE_NAME = "ibug68-3d-bfm"  # the regions' square is about these
METHODS = {
    "fit": "lifemask.methods._fitting_stage:create_stage",
    "dasl": "lifemask.methods._dasl_stage:create_stage",
}
"""Method name to its factory (`methods._stage`), as an import string."""
TEXTURES = ("photo", "none")

Rgb = UInt8[np.ndarray, "h w 3"]
_Stage = TypeVar("_Stage", Landmarks, Geometry, Appearance | None)
Landmarker = Callable[[Rgb, Face | Box], Landmarks]


@dataclass(frozen=True)
class PipelineConfig:
    """What is run on each photo.

    Attributes:
        weights: family of the networks: "open" for any use, "research" for research only.
        method: how a face becomes geometry; one of `METHODS`: "fit" solves for the head behind
            the landmarks, "dasl" (2DASL) regresses it from the crop.
        texture: how the photo becomes appearance; "none" leaves the head without colour.
        faces: the largest face, or all of them, largest first.
        refine: let the photo's colours refine the shape after the landmarks.
        regions: find hair, hands and other things in front of the skin and keep them out of
            refinement and texture; without the parser's weights it is off.
        max_head_px: the texture is taken from the photo reduced until the head is this large.
        device: where the fit and the texture are computed, e.g. "cpu" or "cuda".
        threads: threads of the networks; 0 lets onnxruntime choose.
        fit: settings of the landmark fit, the camera model among them; of the refinement's
            landmark terms too.
        dasl: settings of 2DASL; None for its defaults: our landmarks, or yours, are its map.
        photometric: settings of the refinement; None for its defaults with the same `fit`.
        appearance: settings of the texture; None for its defaults.
    """

    weights: Literal["open", "research"] = "open"
    method: str = "fit"
    texture: str = "photo"
    faces: Literal["largest", "all"] = "largest"
    refine: bool = True
    regions: bool = True
    max_head_px: int = 1280
    device: str = "cpu"
    threads: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    dasl: DaslPredictConfig | None = None
    photometric: PhotometricConfig | None = None
    appearance: TextureConfig | None = None

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            UserError: one of them is unknown, and the message lists what is valid; or the method
                has no such camera.
        """
        check_choice("weights", self.weights, ("open", "research"))
        check_choice("method", self.method, tuple(METHODS))
        check_choice("texture", self.texture, TEXTURES)
        check_choice("faces", self.faces, ("largest", "all"))
        _check_device(self.device)
        if self.method != "fit" and self.fit.camera != "orthographic":
            raise UserError(
                f"method {self.method} predicts for an orthographic camera; a {self.fit.camera}"
                " camera needs the method fit"
            )


class Pipeline:
    """The stages with their networks, loaded when first needed; made once, called per photo."""

    def __init__(
        self,
        config: PipelineConfig | None = None,
        *,
        detector: Detector | None = None,
        landmarker: Landmarker | None = None,
        parser: Parser | None = None,
        model: FaceModel | None = None,
        geometry_stage: GeometryStage | None = None,
    ) -> None:
        """Take the stages given, and the defaults of `config` for the others."""
        self.config = config or PipelineConfig()
        given: dict[str, object] = {"detector": detector, "landmarker": landmarker}
        given |= {"parser": parser, "model": model, "geometry_stage": geometry_stage}
        vars(self).update({name: stage for name, stage in given.items() if stage is not None})

    def __call__(
        self,
        photo: str | Path | Image.Image | Rgb,
        *,
        boxes: Sequence[Box] | None = None,
        landmarks: Landmarks | ArrayLike | str | Path | None = None,
    ) -> list[Head]:
        """Heads of a photo.

        Args:
            photo: a file, a PIL image, or an array (H, W, 3).
            boxes: faces (x0, y0, x1, y1) in photo px, in place of the detector.
            landmarks: of one face, in place of detector and landmarker: an array (n, 2 or 3) in
                photo px, a file (`methods.fitting.load_landmarks`), or `Landmarks`.

        Returns:
            With `faces="largest"` one head, else all, largest first; with `boxes` in their order.

        Raises:
            UserError: the photo cannot be read, shows no usable face, or the landmarks are wrong.
        """
        image = read_photo(photo)
        if landmarks is not None:
            points = self.read_landmarks(landmarks, image)
            return [self.reconstruct_face(image, face_of_landmarks(points), points)]
        faces = usable_faces(self.find_faces(image, boxes), image)
        if self.config.faces == "largest" and boxes is None:
            faces = faces[:1]
        return [self.reconstruct_face(image, face) for face in faces]

    def find_faces(self, image: Rgb, boxes: Sequence[Box] | None = None) -> list[Face]:
        """The given boxes as faces, else what the detector finds, largest sure ones first."""
        if boxes is not None:
            return [face_of_box(box) for box in boxes]
        return largest_first(self.detector(image))

    def reconstruct_face(
        self, image: Rgb, face: Face | Box, landmarks: Landmarks | None = None
    ) -> Head:
        """One head: the boxes of the README's figure, one line each.

        Args:
            image: photo, (H, W, 3) uint8 RGB.
            face: a detected face, or the landmark square itself as benchmarks hand it out.
            landmarks: the user's, in place of the landmarker.
        """
        seen = self.look(image, face, landmarks)
        geometry = self.find_geometry(seen)
        regions = self.find_regions(image, geometry)
        geometry = self.refine(image, geometry, seen.landmarks, regions)
        appearance = self.dress(image, geometry, regions)
        face = face if isinstance(face, Face) else Face(face, 1.0)
        return Head(
            face=face,
            geometry=moved(geometry, "cpu"),
            appearance=moved(appearance, "cpu"),
            image_size=seen.image_size,
            weights=self.config.weights,
            model=self.model if self._is_modelled(geometry) else None,
            warnings=_warnings(face, geometry, seen.image_size),
            method=self._method_use(seen, geometry),
        )

    def look(self, image: Rgb, face: Face | Box, landmarks: Landmarks | None = None) -> FaceInput:
        """What the method gets; landmarks are looked for only where a stage needs them."""
        given = landmarks is not None
        if not given and (self.config.refine or self.geometry_stage.needs_landmarks):
            landmarks = self.find_landmarks(image, face)
        points = None if landmarks is None else moved(landmarks, self.config.device)
        return FaceInput(image, face, points, given)

    def find_landmarks(self, image: Rgb, face: Face | Box) -> Landmarks:
        """Landmarks in photo px; the landmarker crops a second time, around its first ones."""
        return self.landmarker(image, face)

    def find_geometry(self, seen: FaceInput) -> Geometry:
        """Shape and camera, by the method chosen."""
        return moved(self.geometry_stage(seen), self.config.device)

    def refine(
        self,
        image: Rgb,
        geometry: Geometry,
        landmarks: Landmarks | None,
        regions: Regions | None = None,
    ) -> Geometry:
        """Shape and pose that agree with the photo's colours too, if that is switched on.

        A mesh without parameters of the face model stays as it is.
        """
        if landmarks is None or not self._refines(geometry):
            return geometry
        from lifemask.methods.photometric import PhotometricConfig, refine_photometric

        config = self.config.photometric or PhotometricConfig(fit=self.config.fit)
        given = (image, geometry, landmarks, self.device_model, config)
        return refine_photometric(*given, regions=regions).geometry

    def find_regions(self, image: Rgb, geometry: Geometry) -> Regions | None:
        """Region maps of the photo about the fitted head, if that is switched on."""
        model = self.device_model
        config = self.config
        used = config.regions and (config.refine or config.texture != "none")
        known = self._is_modelled(geometry) and SQUARE_NAME in model.landmark_embeddings
        if not (used and known and self.parser is not None):
            return None
        points = model.landmarks(geometry.vertices_mm, SQUARE_NAME)
        points = project(points, geometry.camera).cpu()
        return self.parser(image, Landmarks(points, torch.ones(len(points)), SQUARE_NAME))

    def dress(
        self, image: Rgb, geometry: Geometry, regions: Regions | None = None
    ) -> Appearance | None:
        """Light-free texture and the photo's light, if that is switched on.

        A mesh without the face model's texture coordinates gets none.
        """
        if self.config.texture == "none" or not self._is_modelled(geometry):
            return None
        from lifemask.methods.texture import texture_from_photo

        corners = project(geometry.vertices_mm, geometry.camera)[:, :2]
        box = (*corners.amin(0).tolist(), *corners.amax(0).tolist())
        window = cut_window(image, box, self.config.max_head_px)
        if window is None:
            raise NoFaceError("the fitted head lies outside the photo")
        camera = camera_for_crop(geometry.camera, window.center_px, window.side_px, window.size)
        pixels = torch.from_numpy(window.image).permute(2, 0, 1).float() / 255
        seen = replace(geometry, camera=camera)
        if regions is not None:
            regions = regions.seen_in(window.center_px, window.side_px, window.size)
        return texture_from_photo(pixels, seen, self.device_model, self.config.appearance, regions)

    def read_landmarks(
        self, landmarks: Landmarks | ArrayLike | str | Path, image: Rgb
    ) -> Landmarks:
        """A user's landmarks, checked."""
        from lifemask.methods.fitting import landmarks_from_points, load_landmarks

        size = (image.shape[1], image.shape[0])
        if isinstance(landmarks, Landmarks):
            return landmarks
        if isinstance(landmarks, str | Path):
            return load_landmarks(landmarks, image_size=size)
        return landmarks_from_points(landmarks, image_size=size)

    def _is_modelled(self, geometry: Geometry) -> bool:
        """Whether a geometry is a head of the pipeline's face model, and not a free mesh."""
        return geometry.model == self.model.name

    def _refines(self, geometry: Geometry) -> bool:
        modelled = self._is_modelled(geometry) and geometry.params is not None
        return self.config.refine and modelled

    def _method_use(self, seen: FaceInput, geometry: Geometry) -> MethodUse:
        config = self.config
        options = dict(self.geometry_stage.options(seen))
        return MethodUse(config.method, config.weights, self._refines(geometry), options)

    @cached_property
    def detector(self) -> Detector:
        """The face detector."""
        from lifemask.faces.detect import load_detector

        return load_detector(DetectorConfig(threads=self.config.threads))

    @cached_property
    def landmarker(self) -> Landmarker:
        """The landmark network."""
        from lifemask.faces.landmarker import load_landmarker

        config = self.config
        return load_landmarker(config.weights, threads=config.threads)

    @cached_property
    def geometry_stage(self) -> GeometryStage:
        """The method, with its networks."""
        config = self.config
        module, function = METHODS[config.method].split(":")
        setup = StageSetup(
            self.device_model, config.weights, config.threads, getattr(config, config.method)
        )
        return getattr(import_module(module), function)(setup)

    @cached_property
    def parser(self) -> Parser | None:
        """The region network; None where its weights are not installed."""
        config = self.config
        if not (weights_folder() / f"parser-{config.weights}.onnx").is_file():
            log.info("no weights of a parser: what hides the face is told by its colours alone")
            return None
        return load_parser(config.weights, threads=config.threads)

    @cached_property
    def model(self) -> FaceModel:
        """The face model, on the CPU."""
        from lifemask.facemodel import load_face_model

        return load_face_model()

    @cached_property
    def device_model(self) -> FaceModel:
        """The face model on the pipeline's device."""
        device = self.config.device
        return self.model if device == "cpu" else deepcopy(self.model).to(device)


def reconstruct(
    photo: str | Path | Image.Image | Rgb,
    config: PipelineConfig | None = None,
    *,
    landmarks: Landmarks | ArrayLike | str | Path | None = None,
    box: Box | None = None,
) -> Head:
    """The head of the largest face of a photo.

    Args:
        photo: a file, a PIL image, or an array (H, W, 3): uint8, uint16 or float in [0, 1].
        config: what is run; None for the defaults.
        landmarks: the face's landmarks in photo px, if they are known: (n, 2 or 3) or a file.
        box: the face's box (x0, y0, x1, y1) in photo px, if it is known.

    Raises:
        UserError: no such photo, no face in it, missing weights, ...; one line, with the remedy.
    """
    config = replace(config or PipelineConfig(), faces="largest")
    boxes = None if box is None else [box]
    return _pipeline(config)(photo, boxes=boxes, landmarks=landmarks)[0]


def reconstruct_all(
    photo: str | Path | Image.Image | Rgb,
    config: PipelineConfig | None = None,
    *,
    boxes: Sequence[Box] | None = None,
) -> list[Head]:
    """The heads of all faces of a photo, largest first; see `reconstruct`.

    Args:
        photo: as for `reconstruct`.
        config: what is run; None for the defaults.
        boxes: the faces' boxes in photo px, if they are known; the result keeps their order.
    """
    config = replace(config or PipelineConfig(), faces="all")
    return _pipeline(config)(photo, boxes=boxes)


def read_photo(photo: str | Path | Image.Image | Rgb) -> Rgb:
    """A photo in any form as upright uint8 RGB (H, W, 3)."""
    return load_image(photo) if isinstance(photo, str | Path) else as_uint8_rgb(photo)


def moved(value: _Stage, device: str) -> _Stage:
    """A stage's result (a frozen dataclass, or None) with its tensors on a device."""
    return _moved(value, torch.device(device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
        )
    return value


@lru_cache(maxsize=4)
def _pipeline(config: PipelineConfig) -> Pipeline:
    """The pipelines of this process by their settings, so that networks are loaded once."""
    return Pipeline(config)


def _warnings(face: Face, geometry: Geometry, image_size: tuple[int, int]) -> tuple[str, ...]:
    """What a user should know before trusting the result."""
    found: list[str] = []
    side = side_px(face)
    if side < 80:
        found.append(f"the face is only {side:.0f} px wide; details are guesses")
    if geometry.residual_px > 0.06 * side:
        found.append("the landmarks fit no head well; check the preview")
    x0, y0, x1, y1 = face.box
    width, height = image_size
    if x0 <= 0.5 or y0 <= 0.5 or x1 >= width - 1.5 or y1 >= height - 1.5:
        found.append("the face touches the photo's edge; what lies outside is a guess")
    return tuple(found)


def dasl_settings(method: str, map_source: str | None) -> DaslPredictConfig | None:
    """Settings of 2DASL from the name of a map source, as commands take it; None for none.

    Raises:
        UserError: an unknown source, or a method that has no map.
    """
    if map_source is None:
        return None
    if method != "dasl":
        raise UserError(f"method {method} draws no landmark map; --map belongs to --method dasl")
    from lifemask.methods._dasl_stage import MAP_SOURCES, DaslPredictConfig

    check_choice("map source", map_source, MAP_SOURCES)
    return DaslPredictConfig(landmarks=map_source)  # pyright: ignore[reportArgumentType]


def check_choice(what: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse an unknown name.

    Raises:
        UserError: `value` is not in `valid`, which the message lists.
    """
    if value not in valid:
        raise UserError(f"unknown {what} {value!r}; valid: {', '.join(valid)}")


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}; valid: cpu, cuda, cuda:0, ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda is not available here; use --device cpu")
