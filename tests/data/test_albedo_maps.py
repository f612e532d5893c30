"""Albedo maps: natural tones, no one-sided shading, the same maps from the same seed, a cache."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.data import _albedo_cache as cache
from lifemask.data import albedo_maps as maps_module
from lifemask.data._synthetic_skins import Skin, load_skins
from lifemask.data.albedo_maps import (
    DRAWING,
    LUMINANCE,
    albedo_maps,
    chart_places,
    cheek_luminance,
    create_map_maker,
    is_painted,
    natural_tone,
    without_shading,
)
from lifemask.facemodel import load_face_model
from lifemask.methods._retexture_chart import create_texture_chart

SIZE = 48


@pytest.fixture(scope="module")
def generator():
    """Of the default head, with noise for skins."""
    return small_generator(load_face_model())


@pytest.fixture(scope="module")
def chart():
    return create_texture_chart(load_face_model(), SIZE)


def test_the_layout_shows_the_same_points_as_the_chart(generator, chart):
    """Rest positions read from the layout at the chart's places are the chart's own."""
    from scipy.ndimage import map_coordinates

    model, rig = generator.rig.model, generator.rig
    head = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    wanted = chart.spread(chart.atlas.interpolate(head)).numpy()
    places = chart_places(rig, chart)
    known = np.nan_to_num(rig.texel_mm)
    found = [map_coordinates(known[..., c], places, order=1, mode="nearest") for c in range(3)]
    gap = np.linalg.norm(np.stack(found) - wanted, axis=0)[chart.inside.numpy()]
    assert np.median(gap) < 0.1
    assert np.mean(gap > 2) < 0.08  # the throat, which the layout lacks, and its seams


def test_light_from_one_side_is_taken_out_and_skin_stays():
    rng = np.random.default_rng(0)
    rows, columns = 160, 40
    half = rng.uniform(0.4, 0.6, (1, rows // 2, columns, 3))
    skin = np.concatenate([half, half[:, ::-1]], 1).astype(np.float32)
    assert np.abs(without_shading(skin) - skin).max() < 1e-4
    ramp = np.linspace(0.8, 1.2, rows, dtype=np.float32)[:, None, None]
    flat = without_shading(skin * ramp)
    halves = flat[:, : rows // 2].mean(), flat[:, rows // 2 :].mean()
    assert abs(np.log(halves[0] / halves[1])) < 0.1 * np.log(1.2 / 0.8)


def test_tones_are_natural_and_reach_from_pale_to_dark():
    rng = np.random.default_rng(1)
    cheek = np.full((20, 3), (180, 140, 120), np.uint8)
    found = []
    for _ in range(200):
        lut, mix = natural_tone(rng, cheek)
        assert np.abs(mix - np.eye(3)).max() < DRAWING
        found.append(mix @ lut[cheek[0], [0, 1, 2]])
    found = np.array(found)
    tones = found @ LUMINANCE
    assert tones.min() < 0.045 and tones.max() > 0.45
    thirds = np.histogram(np.log(tones), np.log([0.03, 0.08, 0.2, 0.5]))[0]
    assert thirds.min() > 30
    assert bool((found[:, 0] > found[:, 1]).all()) and bool((found[:, 1] > found[:, 2]).all())


def test_paint_is_told_from_skin():
    rng = np.random.default_rng(2)
    plain = rng.normal((170, 120, 100), 6, (500, 3))
    assert not is_painted(plain - 8, plain)
    assert not is_painted(plain * 0.6, plain)
    assert is_painted(plain[:, ::-1], plain)
    half = plain.copy()
    half[:100] = (20, 200, 180)
    assert is_painted(half, plain)


def test_the_tone_is_read_on_the_cheeks():
    maps = np.full((2, 3, 40, 40), 128, np.uint8)
    maps[1] = 255
    np.testing.assert_allclose(cheek_luminance(maps), [0.2159, 1.0], atol=1e-3)


def test_real_skins_make_faces(shared_data, chart, generator):
    """The same map whatever else is made; lips redder than cheeks, brows darker."""
    skins = load_skins(shared_data / "skins", generator.rig)
    maker = create_map_maker(replace(generator, skins=skins), chart, 5)
    maps = np.stack([maker.make(index) for index in range(4)])
    assert maps.shape == (4, 3, SIZE, SIZE) and maps.dtype == np.uint8
    again = albedo_maps(replace(generator, skins=skins), chart, 2, seed=5)
    np.testing.assert_array_equal(again, maps[:2])
    other = create_map_maker(replace(generator, skins=skins), chart, 6).make(1)
    assert not np.array_equal(other, maps[1])
    red = maps.astype(float)[:, 0] / maps[:, 1].clip(1)
    lips, cheek = red[:, 32:34, 20:28], red[:, 22:28, 6:10]
    assert np.median(lips.mean((1, 2)) / cheek.mean((1, 2))) > 1
    assert len(set(cheek_luminance(maps).round(2))) > 1


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A cache whose maps are their own numbers, and what was made."""
    (tmp_path / "skins").mkdir()
    (tmp_path / "skins" / "a_diffuse.jpg").write_bytes(b"skin")
    made = []

    def write(missing, data, settings, part):
        for path in missing:
            made.append(path.name)
            first = int(path.stem) * part
            maps = np.arange(first, first + part)[:, None, None, None]
            np.save(path, np.tile(maps, (1, 3, settings.size, settings.size)).astype(np.uint8))

    monkeypatch.setattr(cache, "_write", write)
    monkeypatch.setattr(cache, "PART", 4)
    return tmp_path, made


def test_a_cache_goes_on_where_it_stopped(tiny):
    folder, made = tiny
    settings = cache.MapSettings(2, 6)
    bank = cache.open_maps(folder / "maps", folder, settings)
    assert len(bank) == 6 and made == ["00000.npy", "00001.npy"]
    assert bank[np.array([5, 0, 3, 4])][:, 0, 0, 0].tolist() == [5, 0, 3, 4]
    more = cache.open_maps(folder / "maps", folder, cache.MapSettings(2, 10))
    assert made == ["00000.npy", "00001.npy", "00002.npy"] and len(more) == 10
    few = cache.open_maps(folder / "maps", folder, cache.MapSettings(2, 3))
    assert len(few) == 3 and few[np.array([2])][0, 0, 0, 0] == 2


def test_a_cache_of_other_skins_is_refused(tiny):
    folder, _ = tiny
    cache.open_maps(folder / "maps", folder, cache.MapSettings(2, 4))
    (folder / "skins" / "a_diffuse.jpg").write_bytes(b"other")
    with pytest.raises(UserError, match="other skins"):
        cache.open_maps(folder / "maps", folder, cache.MapSettings(2, 4))
    header = json.loads((folder / "maps" / "train-2-0" / "maps.json").read_text())
    assert header["size"] == 2
    with pytest.raises(UserError, match="put MakeHuman skins there"):
        cache.open_maps(folder / "maps", folder / "nowhere", cache.MapSettings(2, 4))


def test_made_up_lips_fade_to_the_skins_own_where_they_were_drawn(generator, chart, monkeypatch):
    """Not where lips usually are: a drawn outline would be left as a rim."""
    maker = create_map_maker(generator, chart, 3)
    shape = maker.skins.shape[1:3]
    drawn = np.zeros(shape, np.uint8)
    drawn[shape[0] // 2 - 9 : shape[0] // 2 + 9, shape[1] // 2 - 9 : shape[1] // 2 + 9] = 255
    made_up = np.full((*shape, 3), (250, 0, 250), np.uint8)
    painted = Skin(made_up, np.stack([np.zeros_like(drawn), drawn]))
    monkeypatch.setattr(maps_module, "vary_skin", lambda *_: painted)
    monkeypatch.setattr(maps_module, "is_painted", lambda *_: False)
    monkeypatch.setattr(maps_module, "GREY_AGE", -1.0)
    found = np.stack([maker._skin(np.random.default_rng(seed)) for seed in range(6)]).astype(int)
    kept = (drawn == 0) & (generator.masks.lid == 0)
    assert (np.abs(found - made_up)[:, kept] <= 1).all()
    assert np.abs(found - made_up)[:, drawn > 0].mean((1, 2)).max() > 30
