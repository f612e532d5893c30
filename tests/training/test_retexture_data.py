"""Faces for the re-renderable texture: what a render's fields say, and caches that resume."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import lifemask.data.synthetic as synthetic
import lifemask.training._retexture_renders as renders
import lifemask.training.retexture_data as retexture_data
from helpers.retexture_cache import SIZE, render_records, store
from helpers.small_generator import plain_light, small_generator
from lifemask.assets import UserError
from lifemask.data.aflw21 import load_aflw21_test
from lifemask.facemodel import load_face_model
from lifemask.graphics.lighting import linear_to_srgb, shading, srgb_to_linear
from lifemask.methods._retexture_chart import create_texture_chart, sample_map, view_chart
from lifemask.training._retexture_cache import FIELDS, decoded, open_cache
from lifemask.training._retexture_photos import (
    _coloured,
    _fitted,
    create_fitter,
    order_of_photos,
)
from lifemask.training.retexture_data import RenderSettings, write_renders
from training.landmark_toy import toy_real


@pytest.fixture(scope="module")
def records():
    return render_records(4)


@pytest.fixture(scope="module")
def chart():
    return create_texture_chart(load_face_model("lifemask"), SIZE)


def rendered(record, light):
    """A record's true albedo in a light, in its picture (3, n, n), sRGB."""
    places = record.places[None]
    albedo = sample_map(srgb_to_linear(record.albedo)[None], places)[0]
    normals = sample_map(record.normals[None], places)[0]
    normals = torch.nn.functional.normalize(normals, dim=0).permute(1, 2, 0)
    lit = shading(normals, torch.from_numpy(light)).permute(2, 0, 1)
    return linear_to_srgb((albedo * lit).clamp(0, 1))


def test_true_albedo_in_true_light_is_the_picture(monkeypatch):
    real = renders.render_scene
    monkeypatch.setattr(renders, "render_scene", lambda g, b, s: real(g, b, plain_light(s)))
    right, wrong = [], []
    for record in render_records(3):
        shown = record.mask > 0.5
        for photo, light, other in zip(record.photo, record.light, record.light[::-1], strict=True):
            pixels = torch.from_numpy(photo).float() / 255
            errors = [(rendered(record, one) - pixels)[:, shown].abs().mean() for one in
                      (light, other)]  # fmt: skip
            right.append(float(errors[0]))
            wrong.append(float(errors[1]))
    assert np.mean(right) < 0.06  # the skin is noise that pixels average
    assert np.mean(right) < 0.7 * np.mean(wrong)


def test_albedo_is_known_where_the_picture_shows_nothing(records, chart):
    for record in records:
        hidden = chart.inside & (record.visible == 0)
        assert hidden.sum() > 50
        assert float(record.albedo[:, hidden].amin()) > 0
        assert float(record.truth[~chart.inside].sum()) == 0
    assert any(float(r.truth[chart.inside & (r.visible == 0)].mean()) > 0.99 for r in records)


def test_what_is_read_off_the_picture_is_the_albedo_of_the_texel(monkeypatch, records):
    """All skin is called beard: then its pixels' albedo must be what the layout says of it."""
    own, draw = renders._shown, renders._draw

    def all_beard(maps):
        skin, beard, glasses = own(maps)
        return np.zeros_like(skin), skin | beard, np.zeros_like(glasses)

    def bearded(*given):
        scene = draw(*given)
        return replace(scene, outfit=replace(scene.outfit, beard="full"))

    monkeypatch.setattr(renders, "_shown", all_beard)
    monkeypatch.setattr(renders, "_draw", bearded)
    apart, mirrored = [], []
    for head, same in zip(render_records(4), records, strict=True):
        worn = (head.truth > 0) & (head.visible > 0.5)
        assert worn.sum() > 0.7 * (head.visible > 0.5).sum()
        apart.append(float((head.albedo - same.albedo)[:, worn].abs().mean()))
        mirrored.append(float((head.albedo.flip(-1) - same.albedo)[:, worn].abs().mean()))
    assert np.mean(apart) < 0.05  # the skin is noise that pixels average
    assert np.mean(apart) < 0.9 * np.mean(mirrored)


def test_a_head_does_not_depend_on_its_company_and_jitter_moves_it_a_little(records):
    again = render_records(2)[1]
    for name, coded in again.coded().items():
        assert np.array_equal(coded, records[1].coded()[name]), name
    moved = render_records(2, jitter=1.0)[1]
    apart = (moved.points - again.points).norm(dim=0) * SIZE / 2
    assert 0.01 < float(apart.mean()) < 2.0
    assert np.array_equal(moved.albedo, again.albedo)
    assert np.array_equal(moved.photo, again.photo)


def test_lights_differ_and_heads_face_the_camera(records):
    for record in records:
        assert not np.array_equal(record.photo[0], record.photo[1])
        assert not np.allclose(record.light[0], record.light[1])
        assert abs(record.yaw_deg) <= renders.MOST_YAW_DEG[1]
        assert 0 < record.tone < 1


def test_stored_fields_come_back(records):
    for name, coded in records[0].coded().items():
        wanted = torch.as_tensor(getattr(records[0], name)).float()
        wanted = wanted / 255 if name == "photo" else wanted
        wanted = wanted.clamp(-4, 4) if name == "points" else wanted
        tolerance = {"normals": 0.01, "light": 1e-6}.get(name, 0.003)
        assert float((decoded(name, coded) - wanted).abs().max()) < tolerance, name


def test_texels_are_seen_where_the_chart_sees_them(chart):
    """Points and visibility agree with `view_chart` of the picture itself."""
    model = load_face_model("lifemask")
    generator = small_generator(model, size=SIZE)
    banks = generator.banks(0)
    scene = renders._draw(generator, banks, 0, 1, np.random.default_rng([3, 11, 1]))
    image = torch.rand(3, SIZE, SIZE)
    view = view_chart(image, torch.from_numpy(scene.head_mm), scene.view.camera(), chart)
    record = render_records(2)[1]
    assert (record.visible <= view.visible + 1e-6).all()
    expected = renders.unit_points(view.points, SIZE)
    torch.testing.assert_close(record.points, expected, atol=1e-3, rtol=0)


def test_a_stopped_run_goes_on_and_a_partial_cache_can_be_read(tmp_path, monkeypatch):
    model = load_face_model("lifemask")

    def small(config, data):
        return small_generator(model, size=config.size, shard_size=config.shard_size)

    monkeypatch.setattr(synthetic, "create_generator", small)
    monkeypatch.setattr(retexture_data, "SHARD", 2)
    settings = RenderSettings(heads=3, lights=1, size=SIZE, skins=2)
    write = partial(write_renders, data=tmp_path, settings=settings)
    whole = tmp_path / "whole"
    write(whole)
    stopped = tmp_path / "stopped"

    def stop(done):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(stopped, progress=stop)
    assert len(open_cache(stopped)) == 2
    first = (stopped / "photo-0000.npy").stat().st_mtime_ns
    write(stopped)
    assert (stopped / "photo-0000.npy").stat().st_mtime_ns == first
    for head in range(3):
        for name in FIELDS:
            pair = (open_cache(folder).field(name, head) for folder in (whole, stopped))
            assert torch.equal(*pair), name
    with pytest.raises(UserError, match="holds another run"):
        write_renders(stopped, tmp_path, replace(settings, jitter=0.5))


def test_caches_that_cannot_be_read_say_so(tmp_path, records):
    with pytest.raises(UserError, match="no retexture cache"):
        open_cache(tmp_path)
    folder = store(tmp_path / "a", records)
    (folder / "header.json").write_text("{}")
    with pytest.raises(UserError, match="version"):
        open_cache(folder)
    with pytest.raises(UserError, match="positive"):
        RenderSettings(heads=0)


def test_photos_of_one_tint_or_in_profile_are_left_out():
    rng = np.random.default_rng(0)
    grey = rng.integers(10, 250, (20, 20, 1)).astype(np.float64)
    sepia = (grey * [1.0, 0.8, 0.6]).astype(np.uint8)
    assert not _coloured(grey.repeat(3, 2).astype(np.uint8)) and not _coloured(sepia)
    assert not _coloured(np.zeros((9, 9, 3), np.uint8))
    assert _coloured(rng.integers(0, 255, (20, 20, 3)).astype(np.uint8))
    crops = toy_real("aflw21")
    crops = replace(crops, yaw_deg=np.linspace(-100, 100, len(crops)))
    chosen = order_of_photos(crops, 1)
    assert set(chosen) == set(np.nonzero(np.abs(crops.yaw_deg) <= 70)[0])
    assert np.array_equal(chosen, order_of_photos(crops, 1))


def test_photos_show_their_skin_and_no_truth(shared_data, chart):
    photos = load_aflw21_test(shared_data / "aflw21")
    fitter = create_fitter()
    found = [
        _fitted(photos.image(i), i, -float(photos.bin_yaw_deg[i]), fitter, chart) for i in range(6)
    ]
    kept = [one for one in found if one is not None]
    assert 2 <= len(kept) < 6  # the first ones hold black and white pictures
    for record in kept:
        assert not record.light.any() and float(record.truth.sum()) == 0
        assert float(record.mask.mean()) > 0.1
        assert 0.1 < float(record.visible[chart.inside].mean()) < 0.95
        outside = record.places[..., 0] > 1.5
        assert float(record.mask[outside].sum()) == 0
        assert np.isnan(record.tone)
