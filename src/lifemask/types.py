"""The frozen dataclasses that travel between the stages; `docs/conventions.md` is their contract.

Frames. Model frame: millimetres, x to the viewer's right, y up, z out of the face. Camera frame:
the same axes after rotation (x right, y up, z towards the viewer). Image frame: pixels, 0-based,
the integer is the pixel's centre, u right, v down; w is nearness in pixels (larger = nearer).
Colour: RGB; images are sRGB in [0, 1]; albedo and shading are linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

CameraModel = Literal["orthographic", "pinhole"]

REGION_NAMES = (
    "nose", "lips", "eyes", "brows", "skin", "mouth_interior", "ears_neck", "hair", "background",
)  # fmt: skip
"""The nine classes of a region map, by id. "skin" includes beards and glasses, "hair" includes
headwear, "background" includes cloth and whatever hides the face (hands, objects)."""
FACE_CLASSES = REGION_NAMES.index("mouth_interior") + 1
"""Ids below it belong to the face itself."""


@dataclass(frozen=True)
class Camera:
    """A camera that looks at a posed head; leading batch dimensions are free.

    Orthographic (scaled): `u = s (R X)_x + tx`, `v = -s (R X)_y + ty`, `w = s (R X)_z`.
    Pinhole, looking along -z: `P = R X + T`, `u = cx + f P_x / -P_z`, `v = cy - f P_y / -P_z`.

    Attributes:
        model: which of the two.
        rotation: (*b, 3, 3), model frame to camera frame, proper rotation.
        translation: (*b, 3). Orthographic: (tx, ty, 0) in px. Pinhole: T in mm (T_z < 0).
        scale: (*b,). Orthographic: s in px per mm. Pinhole: focal length f in px.
        center: (*b, 2), principal point (cx, cy) in px; zeros and unused when orthographic.
    """

    model: CameraModel
    rotation: Float[Tensor, "*b 3 3"]
    translation: Float[Tensor, "*b 3"]
    scale: Float[Tensor, "*b"]
    center: Float[Tensor, "*b 2"]


@dataclass(frozen=True)
class Lighting:
    """Distant light as radiance in real spherical harmonics of order 2, camera frame, linear RGB.

    Attributes:
        sh: (*b, 9, 3), order l,m = 00, 1-1, 10, 11, 2-2, 2-1, 20, 21, 22. Shading of a Lambertian
            surface of albedo 1 is `sum_k (A_l / pi) sh_k Y_k(n)`, so a constant radiance of 1
            (`sh_00 = sqrt(4 pi)`) gives shading 1.
    """

    sh: Float[Tensor, "*b 9 3"]


@dataclass(frozen=True)
class Face:
    """A detected face in a photo.

    Attributes:
        box: (x0, y0, x1, y1) in photo px; edges, so a pixel i covers [i - 0.5, i + 0.5].
        score: detector confidence in [0, 1]; 1 for a box given by the user.
        points5: (5, 2) photo px: image-left eye, image-right eye, nose tip, image-left and
            image-right mouth corner; or None.
    """

    box: tuple[float, float, float, float]
    score: float
    points5: Float[Tensor, "5 2"] | None = None


@dataclass(frozen=True)
class Crop:
    """A square, axis-aligned cut of a photo, resampled, with the exact way back.

    `u_photo = center_u - side / 2 + (u_crop + 0.5) * side / size`, likewise v; w scales by
    `side / size`. Outside the photo the image is filled by its border colour.

    Attributes:
        image: (3, size, size), sRGB in [0, 1].
        center_px: (u, v) of the square's centre in photo px.
        side_px: side of the square in photo px.
    """

    image: Float[Tensor, "3 size size"]
    center_px: tuple[float, float]
    side_px: float

    @property
    def size(self) -> int:
        """Side of the resampled image in px."""
        return int(self.image.shape[-1])


@dataclass(frozen=True)
class Landmarks:
    """Predicted or given landmarks of one face.

    Attributes:
        points: (n, 3) in photo px (u, v, w); w is NaN where only 2D is known.
        sigma_px: (n,) standard deviation of a point in photo px (> 0).
        convention: name of the landmark set, a key of `facemodel.landmarks.LANDMARK_SETS`.
    """

    points: Float[Tensor, "n 3"]
    sigma_px: Float[Tensor, "n"]
    convention: str


@dataclass(frozen=True)
class ModelParams:
    """Coefficients of a parametric face model.

    Attributes:
        identity: (i,), standard normal under the model's prior.
        expression: (e,), ARKit-like activations in [0, 1].
    """

    identity: Float[Tensor, "i"]
    expression: Float[Tensor, "e"]


@dataclass(frozen=True)
class FreeSurface:
    """A face's surface that no face model made, as a photo shows it.

    Attributes:
        vertices_px: (v, 3) photo px (u, v, w) of `graphics.camera.project`; w has the scale of u
            and v but no origin of its own until the surface is aligned with a head.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        share: of what a head would have to move to lie on the surface, in [0, 1]: so much is right
            on average, and so much a head that carries it moves. The surface itself is whole.
    """

    vertices_px: Float[Tensor, "v 3"]
    faces: Int[Tensor, "f 3"]
    share: float = 1.0


@dataclass(frozen=True)
class ShapeDetail:
    """What a free surface added to a head of the face model.

    Attributes:
        offsets_mm: (v, 3) what was added to the vertices, model frame, in the photo's expression;
            `Geometry.vertices_mm` contains it.
        displacement_mm: (n, n) what the vertices cannot hold, over the skin's UVs: mm along the
            normal, positive outward, above the smooth surface through the vertices
            (`graphics.subdivide.refine`); row 0 is v = 1, and 0 where `known` is.
        known: (n, n) in [0, 1], how far the photo shows the texel; it has faded out of
            `displacement_mm` already.
    """

    offsets_mm: Float[Tensor, "v 3"]
    displacement_mm: Float[Tensor, "n n"]
    known: Float[Tensor, "n n"]


@dataclass(frozen=True)
class Geometry:
    """A face's shape and the camera that sees it in the photo.

    Attributes:
        vertices_mm: (v, 3) model frame.
        faces: (f, 3) vertex ids, counter-clockwise from outside.
        camera: unbatched, to photo px.
        model: name in `facemodel.FACE_MODELS`, or "" for a free mesh.
        params: the model's coefficients; None for a mesh without a parametric model.
        landmarks68_mm: (68, 3) model frame, convention "ict68"; None for a mesh without a model.
        residual_px: root mean square landmark residual of the fit in photo px, NaN if unknown.
        map_vertices_px: (v, 3) the vertices where a position map has them, without a model: photo
            px (u, v, w), NaN where the map shows nothing; None for methods without such a map.
        uncertainty_px: (v,) expected error of each vertex in photo px, from the disagreement of
            that mesh and the model's and the map's own doubt; NaN there, too.
        surface: a surface found without a model; None for methods without one.
        detail: what of such a surface was carried onto the model's head; None if nothing was.
    """

    vertices_mm: Float[Tensor, "v 3"]
    faces: Tensor
    camera: Camera
    model: str = ""
    params: ModelParams | None = None
    landmarks68_mm: Float[Tensor, "68 3"] | None = None
    residual_px: float = float("nan")
    map_vertices_px: Float[Tensor, "v 3"] | None = None
    uncertainty_px: Float[Tensor, "v"] | None = None
    surface: FreeSurface | None = None
    detail: ShapeDetail | None = None


@dataclass(frozen=True)
class Appearance:
    """Light-free colour of a face over its UVs, and the light of the photo.

    Attributes:
        albedo: (3, n, n) linear RGB in [0, 1], complete (no holes); row 0 is v = 1 (top).
        lighting: light of the photo, camera frame.
        visible: (n, n) True where the photo shows the texel; None if unknown.
        part_albedo: linear (3, m, m) textures of the parts with UVs of their own
            ("eyes", "teeth", "tongue"), by part name.
        detail_light: (27, n, n) the light of each texel of the face's map (`facemodel.chart`),
            channel-major radiance coefficients in the camera frame; None for methods that know
            one light only.
    """

    albedo: Float[Tensor, "3 n n"]
    lighting: Lighting
    visible: Bool[Tensor, "n n"] | None = None
    part_albedo: Mapping[str, Float[Tensor, "3 m m"]] = field(default_factory=dict)
    detail_light: Float[Tensor, "27 k k"] | None = None


@dataclass(frozen=True)
class MethodUse:
    """How a geometry was found, for the record.

    Attributes:
        name: key of `pipeline.METHODS`.
        weights: licence family of the networks, "open" or "research".
        refined: the photo's colours refined the method's result.
        options: what the method chose for this face, e.g. the source of 2DASL's map.
    """

    name: str
    weights: str
    refined: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
