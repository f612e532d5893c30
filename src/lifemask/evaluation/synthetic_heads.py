"""The synthetic-head protocol: pose, landmarks, shape by region, detail, colour, new light.

Every number is a mean over images with its interval and its means by yaw; errors of colour also by
the tone of the skin. A missing head counts as a frontal mean head where that is defined (pose,
landmarks, shape, normals), so that giving up never helps; for detail, colour and light it is left
out and `done` says so. `docs/evaluation-meshes.md` has the definitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from lifemask.data.synthetic_heads import HeadTruth, SyntheticHeads
from lifemask.evaluation import metrics
from lifemask.evaluation._albedo_errors import (
    FacePixels,
    albedo_errors,
    at_pixels,
    face_pixels,
    face_triangles,
    mean_luminance,
    relight_psnr_db,
    resized,
    tone_terciles,
)
from lifemask.evaluation._shape_errors import (
    ALIGNS,
    Aligned,
    TrueShape,
    align,
    detail_of,
    face_base,
    normal_angle_deg,
    region_errors,
)
from lifemask.evaluation._synthetic_report import Key, report
from lifemask.evaluation.head_files import View, read_albedo, read_neutral, read_view
from lifemask.evaluation.meshes import MeshPredictions, Triangles, check_names
from lifemask.facemodel.base import FaceModel
from lifemask.graphics.camera import euler_deg_from_rotation, project
from lifemask.graphics.lighting import srgb_to_linear

REGIONS = ("face", "nose", "mouth", "eyes", "cheeks", "chin", "forehead")
LANDMARK_SET = "ict68"
Values = dict[Key, float]


def score_synthetic_heads(data: SyntheticHeads, predictions: MeshPredictions) -> dict[str, Any]:
    """All numbers of the protocol as plain, JSON-ready values.

    Args:
        data: held-out heads.
        predictions: heads by image name as `evaluation.head_files` describes them; everything but
            the mesh may be absent.

    Returns:
        "images", "misses", "numbers" (each with metric, flags, value, ci95, bins by yaw and, for
        colour, means by tone), and "not_scored" with reasons.

    Raises:
        UserError: predictions of another data set, or broken files.
    """
    check_names(predictions, data.names)
    scorer = _Scorer(data)
    rows, found, yaw, tone = [], [], [], []
    for index, name in enumerate(data.names):
        truth = data.truth(index)
        mesh = predictions.mesh(name)
        found.append(mesh is not None)
        yaw.append(float(euler_deg_from_rotation(truth.camera.rotation)[1]))
        tone.append(mean_luminance(truth.albedo, scorer.face_texels & (truth.albedo.sum(0) > 0)))
        rows.append(
            scorer.miss(truth) if mesh is None else scorer.score(truth, predictions, name, mesh)
        )
    terciles = tone_terciles(np.array(tone))
    return report(rows, np.array(found), metrics.yaw_bins(np.array(yaw)), terciles) | {
        "data": {k: data.header[k] for k in ("family", "seed", "heads", "views", "face_model_sha1")}
    }


class _Scorer:
    """What all images share: regions, the texels of the face, the mean head."""

    def __init__(self, data: SyntheticHeads) -> None:
        self.data, self.model = data, data.model
        topology = data.model.topology
        self.faces = topology.faces.numpy().astype(np.int64)
        self.skin = (topology.face_part == topology.part_names.index("skin")).numpy()
        self.regions = {name: topology.regions[name].numpy() for name in REGIONS}
        self.face_texels = _face_texels(data.model, data.header["albedo_size"])
        with torch.no_grad():
            mean = data.model(
                torch.zeros(data.model.identity_size),
                torch.zeros(len(data.model.expression_names)),
            )
        self.mean: Triangles = (mean.double().numpy(), self.faces)

    def shape(self, vertices: Tensor) -> TrueShape:
        """A true shape with its regions."""
        points = self.model.landmarks(vertices, LANDMARK_SET).double().numpy()
        return TrueShape(vertices.double().numpy(), self.faces, self.skin, self.regions, points)

    def score(
        self, truth: HeadTruth, predictions: MeshPredictions, name: str, mesh: Triangles
    ) -> Values:
        """All values of one image."""
        view = read_view(predictions, name)
        points = predictions.landmarks(name, LANDMARK_SET)
        values, aligned = self.shape_values("expressive", truth.vertices_mm, mesh, points, True)
        neutral = read_neutral(predictions, name)
        if neutral is not None:
            values |= self.shape_values("neutral", truth.neutral_mm, neutral, None, False)[0]
        if view.rotation is not None:
            values |= rotation_values(truth, view.rotation, aligned)
        values |= self.landmark_values(truth, view)
        albedo = read_albedo(predictions, name)
        if albedo is not None:
            values |= self.colour_values(truth, torch.from_numpy(albedo))
        return values

    def miss(self, truth: HeadTruth) -> Values:
        """Values of an image without a prediction: the mean head, frontal."""
        values, aligned = self.shape_values("expressive", truth.vertices_mm, self.mean, None, False)
        values |= self.shape_values("neutral", truth.neutral_mm, self.mean, None, False)[0]
        values |= rotation_values(truth, np.eye(3), aligned)
        true = self.true_landmarks(truth)
        center = (true.min(axis=0) + true.max(axis=0)) / 2
        return values | self.landmark_values(
            truth, View(None, {LANDMARK_SET: np.tile(center, (68, 1))})
        )

    def shape_values(
        self,
        kind: str,
        vertices: Tensor,
        mesh: Triangles,
        landmarks68: ndarray | None,
        with_detail: bool,
    ) -> tuple[Values, Aligned | None]:
        """Distances by region, normal angle and detail; and the rigid alignment."""
        truth, values, rigid = self.shape(vertices), {}, None
        for how in ALIGNS:
            found = align(truth, mesh, landmarks68, how)
            if found is None:
                return {}, None
            rigid = found if how == "rigid" else rigid
            for (region, correspond), value in region_errors(truth, found).items():
                flags = ("shape", kind), ("region", region), ("align", how)
                values["shape_mm", (*flags, ("correspond", correspond))] = value
            angle = ("shape", kind), ("align", how)
            values["normal_angle_deg", angle] = normal_angle_deg(truth, found)
            if with_detail and how == "similarity":
                detail = detail_of(truth, *face_base(truth), found)
                values["detail_r", angle] = detail.r
                values["detail_energy_ratio", angle] = detail.energy_ratio
                values["detail_cover", angle] = detail.cover
        return values, rigid

    def true_landmarks(self, truth: HeadTruth) -> Float[ndarray, "68 2"]:
        """(68, 2) px."""
        points = self.model.landmarks(truth.vertices_mm, LANDMARK_SET)
        return project(points, truth.camera)[:, :2].double().numpy()

    def landmark_values(self, truth: HeadTruth, view: View) -> Values:
        """Distance in px and NME of the image points."""
        guess = view.landmarks_px.get(LANDMARK_SET)
        if guess is None:
            return {}
        true = self.true_landmarks(truth)
        out: Values = {}
        for count in (68, 51):
            keep = slice(68 - count, 68)
            flags = (("set", LANDMARK_SET), ("points", count), ("dims", 2))
            distance = np.linalg.norm(guess[keep] - true[keep], axis=1).mean()
            nme = metrics.nme_percent(guess[None, keep], true[None, keep], true[None])
            out["landmark_error_px", flags] = float(distance)
            out["landmark_nme_percent", flags] = float(nme[0])
        return out

    def colour_values(self, truth: HeadTruth, albedo: Tensor) -> Values:
        """Errors of the albedo on texels and under a new light, beside the photo as albedo."""
        size = self.data.header["albedo_size"]
        guess = resized(albedo.float(), size)
        mask = self.face_texels & (truth.albedo.sum(0) > 0)
        out: Values = {}
        for (gain, texels), error in albedo_errors(
            guess, truth.albedo, mask, truth.visible
        ).items():
            flags = (("gain", "one per image" if gain else "none"), ("texels", texels))
            out["albedo_rmse", flags], out["albedo_l1", flags] = error.rmse, error.l1
        pixels = face_pixels(
            self.model, truth.vertices_mm, truth.camera, self.data.header["image_size"],
            truth.visible,
        )  # fmt: skip
        true = at_pixels(truth.albedo, pixels)
        for of, colours in (
            ("prediction", at_pixels(guess, pixels)),
            ("photo as albedo", self._photo(truth.name, pixels)),
        ):
            flags = (("of", of), ("gain", "one per image"))
            out["relight_psnr_db", flags] = relight_psnr_db(
                colours, true, pixels.normals, truth.relighting
            )
        return out

    def _photo(self, name: str, pixels: FacePixels) -> Float[Tensor, "k 3"]:
        """The photo's linear colours at the face's pixels: what a texture is without unlighting."""
        from lifemask.faces.image import load_image

        image = torch.from_numpy(load_image(self.data.folder / "images" / f"{name}.png").copy())
        return srgb_to_linear(image.float() / 255)[pixels.rows, pixels.columns]


def rotation_values(
    truth: HeadTruth, rotation: Float[ndarray, "3 3"], aligned: Aligned | None
) -> Values:
    """Geodesic angles: of the frames as given, and after turning the head onto the true one."""
    true = truth.camera.rotation.double().numpy()
    out: Values = {
        ("rotation_error_deg", (("frame", "own"),)): float(metrics.geodesic_deg(rotation, true))
    }
    if aligned is not None:
        turned = rotation @ aligned.motion.rotation.T
        flags = (("frame", "aligned to the true shape"),)
        out["rotation_error_deg", flags] = float(metrics.geodesic_deg(turned, true))
    return out


def _face_texels(model: FaceModel, size: int) -> Tensor:
    """Texels (n, n) of the face's skin."""
    from lifemask.graphics.uv import create_uv_atlas

    topology = model.topology
    atlas = create_uv_atlas(
        topology.uvs, topology.faces_uv, topology.faces, size, face_mask=face_triangles(model)
    )
    return atlas.scatter(torch.ones(len(atlas), 1), gutter=False)[0] > 0
