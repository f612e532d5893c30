"""What is run on each photo: `PipelineConfig`, checked, and the tables of names behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from lifemask.assets import UserError
from lifemask.faces.choice import side_px
from lifemask.methods.fitting import FitConfig
from lifemask.nn.shipped import ENGINES, Engine
from lifemask.types import Face, Geometry

if TYPE_CHECKING:
    from lifemask.methods.dasl import DaslPredictConfig
    from lifemask.methods.pgn import PgnPredictConfig
    from lifemask.methods.photometric import PhotometricConfig
    from lifemask.methods.rafare import RafarePredictConfig
    from lifemask.methods.retexture import RetexturePredictConfig
    from lifemask.methods.texture import TextureConfig

METHODS = {
    "fit": "lifemask.methods._fitting_stage:create_stage",
    "dasl": "lifemask.methods._dasl_stage:create_stage",
    "pgn": "lifemask.methods._pgn_stage:create_stage",
    "rafare": "lifemask.methods._rafare_stage:create_stage",
}
"""Method name to its factory (`methods._stage`), as an import string."""
PINHOLE_METHODS = ("fit", "pgn")
TEXTURES = ("auto", "retexture", "photo", "none")
DETAILS = ("auto", "none", "rafare")


@dataclass(frozen=True)
class PipelineConfig:
    """What is run on each photo.

    Attributes:
        weights: family of the networks: "open" for any use, "research" for research only.
        method: how a face becomes geometry; one of `METHODS`: "fit" solves for the head behind
            the landmarks, "dasl" (2DASL) regresses it from the crop, "pgn" predicts a position
            map and solves for the pose, "rafare" finds a surface without a face model beside PGN's
            head.
        detail: "rafare" carries RAFaRe's surface onto the head, whatever the method: its vertices
            fit the surface, and what is finer becomes a displacement and normal map; "none" leaves
            the head as the method made it, and with the method "rafare" gives the bare surface,
            without texture or blendshapes; "auto" is "rafare" with that method, else "none".
        texture: how the photo becomes appearance: "retexture" asks a network for albedo and for
            the light of each texel, "photo" solves for one light and divides it out, "none" leaves
            the head without colour; "auto" takes the network for the head model it was trained on
            unless `appearance` is given, and "photo" otherwise.
        faces: the largest face, or all of them, largest first.
        refine: let the photo's colours refine the shape after the landmarks.
        mouth: read from a close-up how far the lips are apart; without it they are what the method
            saw in its crop, where a closed mouth and a parted one look alike.
        eyes: read the lids and the gaze from close-ups of the eyes; without it they are what the
            method saw in its crop, too few pixels for a blink.
        regions: find hair, hands and other things in front of the skin and keep them out of
            refinement and texture; without the parser's weights it is off.
        max_head_px: the texture is taken from the photo reduced until the head is this large.
        device: where the fit and the texture are computed, e.g. "cpu" or "cuda".
        engine: what runs the networks, on the CPU: "onnx" (onnxruntime) or "torch"; the results
            agree to rounding. The detector is onnxruntime's in any case.
        threads: threads of the networks; 0 lets onnxruntime choose.
        fit: settings of the landmark fit, the camera model among them; of the refinement's
            landmark terms too.
        dasl: settings of 2DASL; None for its defaults: our landmarks, or yours, are its map.
        pgn: settings of PGN; None for its defaults.
        rafare: settings of RAFaRe; None for its defaults.
        photometric: settings of the refinement; None for its defaults with the same `fit`.
        appearance: settings of the texture "photo"; None for its defaults.
        retexture: settings of the texture "retexture"; None for its defaults.
    """

    weights: Literal["open", "research"] = "open"
    method: str = "pgn"
    detail: str = "auto"
    texture: str = "auto"
    faces: Literal["largest", "all"] = "largest"
    refine: bool = True
    mouth: bool = True
    eyes: bool = True
    regions: bool = True
    max_head_px: int = 1280
    device: str = "cpu"
    engine: Engine = "onnx"
    threads: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    dasl: DaslPredictConfig | None = None
    pgn: PgnPredictConfig | None = None
    rafare: RafarePredictConfig | None = None
    photometric: PhotometricConfig | None = None
    appearance: TextureConfig | None = None
    retexture: RetexturePredictConfig | None = None

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            UserError: one of them is unknown, and the message lists what is valid; or the method
                has no such camera.
        """
        check_choice("weights", self.weights, ("open", "research"))
        check_choice("method", self.method, tuple(METHODS))
        check_choice("detail", self.detail, DETAILS)
        check_choice("texture", self.texture, TEXTURES)
        check_choice("faces", self.faces, ("largest", "all"))
        check_choice("engine", self.engine, ENGINES)
        _check_device(self.device)
        if self.method not in PINHOLE_METHODS and self.fit.camera != "orthographic":
            raise UserError(
                f"method {self.method} predicts for an orthographic camera; a {self.fit.camera}"
                f" camera needs the method {' or '.join(PINHOLE_METHODS)}"
            )

    @property
    def carries(self) -> bool:
        """Whether a free surface is carried onto the head."""
        return self.detail == "rafare" or (self.detail == "auto" and self.method == "rafare")

    @property
    def bare(self) -> bool:
        """Whether the result is the free surface itself, without the head model."""
        return self.method == "rafare" and not self.carries

    @property
    def method_settings(self) -> Any:
        """The method's own settings, with the camera of `fit`; None for its defaults."""
        if self.method == "pgn" and self.fit.camera != "orthographic":
            from lifemask.methods.pgn import PgnPredictConfig

            own = self.pgn or PgnPredictConfig()
            return replace(own, camera=self.fit.camera, focal_px=self.fit.focal_px)
        return getattr(self, self.method)


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


def pgn_settings(method: str, shape: str | None) -> PgnPredictConfig | None:
    """Settings of PGN from the name of a shape, as commands take it; None for none.

    Raises:
        UserError: an unknown shape, or a method that has no position map.
    """
    if shape is None:
        return None
    if method != "pgn":
        raise UserError(f"method {method} has no position map; --shape belongs to --method pgn")
    from lifemask.methods.pgn import PgnPredictConfig

    check_choice("shape", shape, ("model", "map"))
    return PgnPredictConfig(shape=shape)  # pyright: ignore[reportArgumentType]


def used_options(
    config: PipelineConfig, of_method: Mapping[str, str], geometry: Geometry
) -> dict[str, str]:
    """What a record says of the settings: the method's own, and those that are not the default."""
    options = dict(of_method)
    if geometry.detail is not None:
        options["detail"] = "rafare"
    options |= {name: "off" for name in ("mouth", "eyes") if not getattr(config, name)}
    if config.engine != "onnx":
        options["engine"] = config.engine
    return options


def warnings_about(
    face: Face, geometry: Geometry, image_size: tuple[int, int], config: PipelineConfig
) -> tuple[str, ...]:
    """What a user should know before trusting a result, one line each.

    Args:
        face: where it was found in the photo.
        geometry: the result.
        image_size: (width, height) of the photo in px.
        config: what was asked for.
    """
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
    if config.bare:
        found.append("the bare surface has no texture or blendshapes; --detail rafare has both")
    elif config.carries and geometry.detail is None:
        found.append("too little is seen for a detailed surface; the head is without it")
    return tuple(found)


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
