"""A photo becomes heads: detect, landmarks, geometry, refinement, mouth and eyes, texture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING

import torch

from lifemask.facemodel.base import FaceModel
from lifemask.faces.choice import (
    NoFaceError,
    face_of_box,
    face_of_landmarks,
    largest_first,
    usable_faces,
)
from lifemask.faces.crop import Box, cut_window
from lifemask.faces.detect import Detector, DetectorConfig
from lifemask.faces.eyes import EyeReader, load_eyes
from lifemask.faces.mouth import MouthReader, load_mouth
from lifemask.faces.parsing import Parser, Regions, find_parser
from lifemask.graphics.camera import camera_for_crop, project
from lifemask.head import Head
from lifemask.methods._person import stage_together
from lifemask.methods._stage import FaceInput, GeometryStage, StageSetup, moved
from lifemask.pipeline_config import (
    METHODS,
    PipelineConfig,
    check_choice,
    dasl_settings,
    pgn_settings,
    used_options,
    warnings_about,
)
from lifemask.pipeline_input import (
    Photo,
    Points,
    Rgb,
    file_names,
    named,
    per_photo,
    read_landmarks,
    read_photo,
)
from lifemask.types import Appearance, Face, FreeSurface, Geometry, Landmarks, MethodUse

if TYPE_CHECKING:
    from lifemask.methods._rafare_stage import SurfaceFinder
    from lifemask.methods.retexture import Retexturer

__all__ = [
    "METHODS",
    "Pipeline",
    "PipelineConfig",
    "check_choice",
    "dasl_settings",
    "pgn_settings",
    "named",
    "read_photo",
]
SQUARE_NAME = "ibug68-3d-bfm"  # the regions' square is about these
LEARNED_IDENTITY_SIGMA = 0.35
"""How far colours may move an identity that a network told, in the prior's standard deviations."""
Landmarker = Callable[[Rgb, Face | Box], Landmarks]


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
        given = (detector, landmarker, parser, model, geometry_stage)
        names = ("detector", "landmarker", "parser", "model", "geometry_stage")
        stages = zip(names, given, strict=True)
        vars(self).update({name: stage for name, stage in stages if stage is not None})

    def __call__(
        self,
        photo: Photo,
        *,
        boxes: Sequence[Box] | None = None,
        landmarks: Points | None = None,
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
            points = read_landmarks(landmarks, image)
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
        return self.finish(seen, self.find_geometry(seen))

    def reconstruct_person(
        self,
        photos: Sequence[Photo],
        *,
        boxes: Sequence[Box | None] | None = None,
        landmarks: Sequence[Points | None] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[Head]:
        """Heads of one person in several photos: one identity, a pose and expression per photo.

        Of each photo the largest face is taken, unless its box or landmarks say which one.

        Args:
            photos: as for a call, at least one.
            boxes: the face's box of each photo in photo px; None where it is not known.
            landmarks: of the face of each photo, as for a call; None where they are not known.
            names: what errors and records call the photos; None for their file names.

        Returns:
            A head per photo, in their order; their identities are equal to the bit.

        Raises:
            UserError: the first photo that cannot be used, by its name; or the method has no
                identity to share.
        """
        names = file_names(photos, names)
        called = [name or f"photo {i}" for i, name in enumerate(names, start=1)]
        faces = zip(
            photos,
            per_photo("boxes", boxes, len(photos)),
            per_photo("landmarks", landmarks, len(photos)),
            strict=True,
        )
        seen = [
            named(name, partial(self.look_for, *face))
            for name, face in zip(called, faces, strict=True)
        ]
        heads = stage_together(self.geometry_stage, seen, self.device_model, self.config.device)
        return [
            named(name, partial(self.finish, one, head, tuple(names)))
            for name, one, head in zip(called, seen, heads, strict=True)
        ]

    def finish(self, seen: FaceInput, geometry: Geometry, person: tuple[str, ...] = ()) -> Head:
        """The head of a geometry: refined, lips and eyes read, detailed, dressed; or bare.

        Args:
            seen: what the method got.
            geometry: what it answered, on the pipeline's device.
            person: names of the photos that share its identity, which then stays; empty for one.
        """
        image, face = seen.image, seen.face
        if self.config.bare:
            from lifemask.methods._rafare_detail import bare_surface

            geometry = bare_surface(geometry, self.device_model)
        regions = self.find_regions(image, geometry)
        given = (image, geometry, seen.landmarks, regions)
        geometry = self.refine(*given, hold_identity=bool(person), trusted=seen.given)
        if not seen.given:
            geometry = self.read_mouth(image, geometry, regions)
        geometry = self.read_eyes(image, geometry, not seen.given, regions)
        before, geometry = geometry, self.add_detail(image, geometry, regions)
        if geometry is not before and not seen.given:  # a surface moves the lips, too
            geometry = self.read_mouth(image, geometry, regions)
        appearance = self.dress(image, geometry, regions)
        face = face if isinstance(face, Face) else Face(face, 1.0)
        return Head(
            face=face,
            geometry=moved(geometry, "cpu"),
            appearance=moved(appearance, "cpu"),
            image_size=seen.image_size,
            weights=self.config.weights,
            model=self.model if self._is_modelled(geometry) else None,
            warnings=warnings_about(face, geometry, seen.image_size, self.config),
            method=self._method_use(seen, geometry),
            person=person,
        )

    def look_for(
        self,
        photo: Photo,
        box: Box | None = None,
        landmarks: Points | None = None,
    ) -> FaceInput:
        """What the method gets of a photo's largest face, or of the one with this box or landmarks.

        Raises:
            UserError: the photo cannot be read, shows no usable face, or the landmarks are wrong.
        """
        image = read_photo(photo)
        if landmarks is not None:
            points = read_landmarks(landmarks, image)
            return self.look(image, face_of_landmarks(points), points)
        boxes = None if box is None else [box]
        return self.look(image, usable_faces(self.find_faces(image, boxes), image)[0])

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
        hold_identity: bool = False,
        trusted: bool = False,
    ) -> Geometry:
        """Shape and pose that agree with the photo's colours too, if that is switched on.

        With `hold_identity` only pose and expression move. What a method learned is held closer
        than what landmarks said, and a position map's points stand for the landmarks unless these
        are trusted as the user's. A mesh without the face model's parameters stays as it is.
        """
        if landmarks is None or not (self.config.refine and self._has_params(geometry)):
            return geometry
        from lifemask.methods._given_landmarks import map_landmarks, with_distance
        from lifemask.methods.photometric import PhotometricConfig, refine_photometric

        sigma = math.inf if self.config.method == "fit" else LEARNED_IDENTITY_SIGMA
        plain = PhotometricConfig(fit=self.config.fit, identity_sigma=sigma)
        config = self.config.photometric or plain
        if hold_identity:
            config = replace(config, hold_identity=True)
        on_map = None if trusted else map_landmarks(geometry, self.device_model)
        points = on_map or landmarks
        given = (image, geometry, points, self.device_model, config)
        refined = refine_photometric(*given, regions=regions).geometry
        refined = with_distance(refined, landmarks, self.device_model)
        kept = ("map_vertices_px", "uncertainty_px", "surface")
        return replace(refined, **{name: getattr(geometry, name) for name in kept})

    def read_mouth(
        self, image: Rgb, geometry: Geometry, regions: Regions | None = None
    ) -> Geometry:
        """The head with its lips as a close-up of the mouth shows them, if that is switched on.

        `regions` know of hands and things before the mouth.
        """
        from lifemask.methods._mouth import has_mouth, read_mouth

        model = self.device_model
        if not (self.config.mouth and self._has_params(geometry) and has_mouth(model)):
            return geometry
        return read_mouth(image, geometry, model, self.mouth_reader, regions)

    def read_eyes(
        self, image: Rgb, geometry: Geometry, lids: bool = True, regions: Regions | None = None
    ) -> Geometry:
        """The head with lids and gaze as close-ups of its eyes show them, if that is switched on.

        `lids`: False where the user's landmarks told them; `regions` know of dark glass.
        """
        from lifemask.methods._eyes import has_lids, read_eyes

        model = self.device_model
        if not (self.config.eyes and self._has_params(geometry) and has_lids(model)):
            return geometry
        return read_eyes(image, geometry, model, self.eye_reader, lids, regions)

    def add_detail(
        self, image: Rgb, geometry: Geometry, regions: Regions | None = None
    ) -> Geometry:
        """The head with a free surface carried onto it, if switched on and the face shows one."""
        if not self.config.carries or not self._is_modelled(geometry):
            return geometry
        from lifemask.methods._rafare_detail import detailed_head

        def found(head: Geometry) -> FreeSurface:
            return self.surface_finder(image, head, self.model, regions)

        must = self.config.method == "rafare"
        return detailed_head(geometry, self.model, found, regions, needed=must)

    def find_regions(self, image: Rgb, geometry: Geometry) -> Regions | None:
        """Region maps of the photo about the fitted head, if that is switched on."""
        model = self.device_model
        config = self.config
        used = config.refine or config.carries or config.texture != "none"
        known = self._is_modelled(geometry) and SQUARE_NAME in model.landmark_embeddings
        if not (config.regions and used and known and self.parser is not None):
            return None
        points = model.landmarks(geometry.vertices_mm, SQUARE_NAME)
        points = project(points, geometry.camera).cpu()
        return self.parser(image, Landmarks(points, torch.ones(len(points)), SQUARE_NAME))

    def dress(
        self, image: Rgb, geometry: Geometry, regions: Regions | None = None
    ) -> Appearance | None:
        """Light-free texture and the photo's light, if switched on and the mesh has the UVs."""
        if self.config.texture == "none" or not self._is_modelled(geometry):
            return None
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
        if self.texture == "retexture":
            return self.retexturer(pixels, seen, regions)
        from lifemask.methods.texture import texture_from_photo

        return texture_from_photo(pixels, seen, self.device_model, self.config.appearance, regions)

    @property
    def texture(self) -> str:
        """How a photo becomes appearance: as configured, "auto" made out."""
        config = self.config
        if config.texture != "auto":
            return config.texture
        return "retexture" if self.model.name == "lifemask" and not config.appearance else "photo"

    @cached_property
    def retexturer(self) -> Retexturer:
        """The network behind the texture "retexture"."""
        from lifemask.methods.retexture import load_retexturer

        config = self.config
        given = (config.weights, self.device_model, config.retexture)
        return load_retexturer(*given, engine=config.engine, threads=config.threads)

    def _is_modelled(self, geometry: Geometry) -> bool:
        """Whether a geometry is a head of the pipeline's face model, and not a free mesh."""
        return geometry.model == self.model.name

    def _has_params(self, geometry: Geometry) -> bool:
        return self._is_modelled(geometry) and geometry.params is not None

    def _method_use(self, seen: FaceInput, geometry: Geometry) -> MethodUse:
        options = used_options(self.config, self.geometry_stage.options(seen), geometry)
        refined = self.config.refine and self._has_params(geometry)
        return MethodUse(self.config.method, self.config.weights, refined, options)

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
        return load_landmarker(config.weights, config.engine, config.threads)

    @cached_property
    def geometry_stage(self) -> GeometryStage:
        """The method, with its networks."""
        config = self.config
        module, function = METHODS[config.method].split(":")
        settings = config.method_settings
        given = (config.weights, config.threads, settings, config.engine)
        return getattr(import_module(module), function)(StageSetup(self.device_model, *given))

    @cached_property
    def surface_finder(self) -> SurfaceFinder:
        """RAFaRe, for the detail of other methods' heads."""
        from lifemask.methods._rafare_detail import load_finder

        config = self.config
        given = (config.weights, self.model.name, config.rafare, config.threads, config.engine)
        return load_finder(*given)

    @cached_property
    def mouth_reader(self) -> MouthReader:
        """The network that reads mouths from close up."""
        return load_mouth(self.config.engine, self.config.threads)

    @cached_property
    def eye_reader(self) -> EyeReader:
        """The network that reads eyes from close up."""
        return load_eyes(self.config.engine, self.config.threads)

    @cached_property
    def parser(self) -> Parser | None:
        """The region network; None where its weights are not installed."""
        config = self.config
        return find_parser(config.weights, config.engine, config.threads)

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
