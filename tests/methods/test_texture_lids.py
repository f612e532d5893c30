from dataclasses import replace

import pytest
import torch

from lifemask import load_face_model
from lifemask.graphics.camera import orthographic_camera
from lifemask.methods._texture_layout import mean_head, texture_layout
from lifemask.methods._texture_lids import BLINKS, Lids
from lifemask.methods.texture import TextureConfig, texture_from_photo
from lifemask.types import Geometry, ModelParams

SIZE = 256


@pytest.fixture(scope="module")
def model():
    return load_face_model()


@pytest.fixture(scope="module")
def layout(model):
    return texture_layout(model, SIZE, 64, 2)


def head(model, blink: float = 0.0) -> Geometry:
    expression = torch.zeros(len(model.expression_names))
    for name in BLINKS:
        expression[model.expression_names.index(name)] = blink
    identity = torch.zeros(model.identity_size)
    vertices = model(identity, expression)
    camera = orthographic_camera(torch.eye(3), 1.0, torch.tensor([128.0, 150.0]))
    return Geometry(
        vertices, model.topology.faces, camera, model.name, ModelParams(identity, expression)
    )


def test_only_skin_just_above_the_eyes_folds(model, layout):
    mean = mean_head(model)
    points = layout.atlas.interpolate(mean)
    corners = model.landmarks(mean, "ict68")
    folded = layout.lids.folds.amax(1) > 0.3
    assert 20 < int(folded.sum()) < 0.01 * len(folded)
    eyes = torch.stack((corners[36:42].mean(0), corners[42:48].mean(0)))
    away = points[folded] - eyes[torch.cdist(points[folded], eyes).argmin(1)]
    assert bool((away[:, :2].norm(dim=1) < 25).all())
    assert float(away[:, 1].mean()) > 2  # upper lids, not lower ones


def test_each_eye_folds_its_own_side_alike(model, layout):
    points = layout.atlas.interpolate(mean_head(model))
    for column, side in enumerate((1, -1)):  # the person's left lies at x > 0
        assert bool((side * points[layout.lids.folds[:, column] > 0.1, 0] > 0).all())
    left, right = layout.lids.folds.sum(0)
    assert float(left) == pytest.approx(float(right), rel=0.05)


def test_closed_eyes_fold_nothing(model, layout):
    opened, closed = (layout.lids.folded(head(model, blink)) for blink in (0.0, 1.0))
    assert float(opened.max()) > 0.9 and float(closed.max()) == 0
    half = layout.lids.folded(head(model, 0.5))
    torch.testing.assert_close(half, opened / 2)
    free = replace(head(model), params=None)
    torch.testing.assert_close(layout.lids.folded(free), opened)


def test_eyes_of_the_photo_do_not_colour_the_lids(model, monkeypatch):
    """A photo that is skin but for brown discs where the eyes are."""
    geometry = head(model)
    points = model.landmarks(geometry.vertices_mm, "ict68")[36:48].view(2, 6, 3).mean(1)
    v, u = torch.meshgrid(torch.arange(300.0), torch.arange(256.0), indexing="ij")
    image = torch.tensor([0.8, 0.6, 0.5]).view(3, 1, 1).expand(3, 300, 256).clone()
    for x, y, _ in points.tolist():
        disc = ((u - 128 - x) / 16) ** 2 + ((v - 150 + y + 4) / 11) ** 2 < 1
        image[:, disc] = torch.tensor([0.45, 0.33, 0.27])[:, None]
    config = TextureConfig(size=SIZE, part_size=64, gutter_px=2)
    layout = texture_layout(model, SIZE, 64, 2)
    lids = layout.lids.folds.amax(1) > 0.9
    core = layout.texel_core > 0.9

    def lid_over_cheek() -> float:
        albedo = layout.atlas.gather(texture_from_photo(image, geometry, model, config).albedo)
        return float(albedo[lids].mean() / albedo[core].mean())

    mended = lid_over_cheek()
    monkeypatch.setattr(Lids, "folded", lambda self, geometry: torch.zeros(len(self.folds)))
    assert mended > 1.15 * lid_over_cheek()
