"""Batches of the re-renderable texture: determinism, mirrors, holes, and who may see what."""

import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch

from helpers.retexture_cache import HELD, SIZE, as_photo, render_records, store
from lifemask.assets import UserError
from lifemask.graphics.lighting import shading, srgb_to_linear
from lifemask.methods._retexture_chart import OUTSIDE, sample_map
from lifemask.training import _camera_faults
from lifemask.training._retexture_cache import open_cache
from lifemask.training.retexture_batches import (
    Face,
    RetextureBatchMaker,
    join_rows,
    load_corpus,
    mirrored_face,
    read_face,
)


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retexture")
    records = render_records(4)
    return (
        store(folder / "renders", records),
        store(folder / "photos", [as_photo(one) for one in records[:3]]),
        store(folder / "held", records[:2], **HELD),
    )


@pytest.fixture(scope="module")
def corpus(caches):
    return load_corpus(caches[:2], SIZE, "research")


@pytest.fixture(scope="module")
def face(caches):
    return read_face(open_cache(caches[0]), 1, 0, SIZE)


def tensors(batch):
    return [*batch.seen, *(getattr(batch, f.name) for f in fields(batch) if f.name != "seen")]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def plain(corpus, batch, size=SIZE, **settings):
    return RetextureBatchMaker(
        corpus, batch, size, mirror=False, holes=0.0, faults=False, **settings
    )


def test_shapes_ranges_and_what_is_known(corpus):
    batch = RetextureBatchMaker(corpus, 6, SIZE, photo_share=0.5)(2)
    assert batch.seen.texture.shape == batch.albedo.shape == (6, 3, SIZE, SIZE)
    assert batch.places.shape == (6, SIZE, SIZE, 2) and batch.light.shape == (6, 9, 3)
    for part in (batch.seen.texture, batch.seen.visible, batch.photo, batch.mask, batch.truth):
        assert 0 <= float(part.min()) and float(part.max()) <= 1
    assert int(batch.lit.sum()) == 3
    unlit = batch.lit == 0
    assert float(batch.truth[unlit].sum()) == float(batch.light[unlit].abs().sum()) == 0
    hidden = (batch.seen.visible == 0).expand(-1, 3, -1, -1)
    assert float(batch.seen.texture[hidden].abs().sum()) == 0
    assert abs(float(batch.seen.noise.std()) - 1) < 0.05


def test_a_batch_follows_from_its_number_however_it_is_shared(corpus):
    make = RetextureBatchMaker(corpus, 4, SIZE, seed=5, photo_share=0.3)
    assert same(make(7), make(7))
    assert not same(make(7), make(8))
    assert same(make(7), join_rows([make(7, 0, 2), make(7, 1, 2)]))
    assert not same(make(7), RetextureBatchMaker(corpus, 4, SIZE, seed=6, photo_share=0.3)(7))


def test_photos_have_their_share_over_steps(corpus):
    make = plain(corpus, 2, photo_share=0.2)
    assert sum(int((make(step).lit == 0).sum()) for step in range(10)) == 4


def test_a_mirror_of_a_mirror_is_the_face(face):
    twice = mirrored_face(mirrored_face(face))
    for one in fields(Face):
        a, b = getattr(face, one.name), getattr(twice, one.name)
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), one.name


def test_a_mirrored_face_is_the_mirrored_picture(face):
    mirror = mirrored_face(face)

    def lit(one: Face):
        places = one.places[None]
        albedo, normals = (sample_map(m[None], places)[0] for m in (one.albedo, one.normals))
        normals = torch.nn.functional.normalize(normals, dim=0).permute(1, 2, 0)
        return albedo * shading(normals, one.light).permute(2, 0, 1)

    shown = (face.places[..., 0] < OUTSIDE - 0.5)[None]
    torch.testing.assert_close(lit(mirror).flip(-1) * shown, lit(face) * shown, atol=1e-4, rtol=0)
    texture, flipped = (
        one.batch(torch.zeros(3, SIZE, SIZE)).seen.texture for one in (face, mirror)
    )
    torch.testing.assert_close(flipped.flip(-1), texture, atol=1e-4, rtol=0)


def test_texture_lies_where_the_picture_is_seen(face):
    """Pixels looked up through their places in the texture are the picture again."""
    batch = face.batch(torch.zeros(3, SIZE, SIZE))
    seen = sample_map(torch.cat((batch.seen.texture, batch.seen.visible), 1), batch.places)
    sure = (batch.mask > 0.9) & (seen[:, 3:] > 0.99)
    assert sure.sum() > 100
    assert float((seen[:, :3] - batch.photo).abs()[sure.expand(-1, 3, -1, -1)].mean()) < 0.05


def test_exposure_changes_light_and_picture_together(corpus, monkeypatch):
    monkeypatch.setattr(_camera_faults, "CURVED", 0.0)
    clean = plain(corpus, 8)(0)
    taken = RetextureBatchMaker(corpus, 8, SIZE, mirror=False, holes=0.0)(0)
    gain = taken.light[:, 0] / clean.light[:, 0]
    assert float((gain - 1).abs().max()) > 0.05
    linear, expected = srgb_to_linear(taken.photo), srgb_to_linear(clean.photo)
    for row in range(8):
        use = (clean.photo[row].amax(0) < 0.7) & (clean.mask[row, 0] > 0.5)
        found = linear[row][:, use].mean(1) / expected[row][:, use].mean(1)
        torch.testing.assert_close(found, gain[row], rtol=0.2, atol=0.0)


def test_a_tone_curve_changes_the_picture_and_no_truth(corpus, monkeypatch):
    batches = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(_camera_faults, "CURVED", share)
        batches.append(RetextureBatchMaker(corpus, 8, SIZE, mirror=False, holes=0.0)(0))
    plainly, bent = batches
    change = (bent.photo - plainly.photo).abs().mean((1, 2, 3))
    assert float(change.min()) > 0.003 and float(change.max()) < 0.25
    for name in ("albedo", "light", "truth", "mask"):
        assert torch.equal(getattr(bent, name), getattr(plainly, name))


@pytest.mark.parametrize("seed", range(8))
def test_tone_curves_rise_from_black_to_white(seed):
    steps = torch.linspace(0, 1, 65).expand(3, 1, 65)
    curve = _camera_faults.curved(steps, np.random.default_rng(seed))[:, 0]
    assert float(curve[:, 0].abs().max()) < 1e-6 and float((curve[:, -1] - 1).abs().max()) < 1e-6
    assert (curve.diff(dim=1) > 0).all()


def test_holes_hide_texels_and_nothing_else(corpus):
    clean = plain(corpus, 8)(0)
    holed = RetextureBatchMaker(corpus, 8, SIZE, mirror=False, holes=1.0, faults=False)(0)
    assert (holed.seen.visible <= clean.seen.visible).all()
    assert float(holed.seen.visible.sum()) < 0.95 * float(clean.seen.visible.sum())
    for name in ("photo", "mask", "albedo", "truth", "light"):
        assert torch.equal(getattr(holed, name), getattr(clean, name)), name


def test_smaller_batches_are_the_larger_ones_shrunk(corpus):
    large, small = plain(corpus, 4)(0), plain(corpus, 4, SIZE // 2)(0)
    shrink = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(small.photo, shrink(large.photo, 2))
    torch.testing.assert_close(small.truth, shrink(large.truth, 2))
    shown = small.places[..., 0] < OUTSIDE - 0.5
    assert 0.1 < float(shown.float().mean()) < 0.9
    assert float(small.places[shown].abs().max()) <= 1
    assert (small.places[~shown] == OUTSIDE).all()
    norm = small.seen.normals.norm(dim=1)
    torch.testing.assert_close(norm, torch.ones_like(norm))


def test_a_maker_travels_to_other_processes(corpus):
    make = RetextureBatchMaker(corpus, 2, SIZE)
    assert same(pickle.loads(pickle.dumps(make))(3), make(3))
    assert len(pickle.dumps(make)) < 20_000


def test_caches_are_refused_with_a_reason(caches, tmp_path):
    renders, photos, held = caches
    with pytest.raises(UserError, match="open family"):
        load_corpus(caches[:2], SIZE)
    with pytest.raises(UserError, match="held out"):
        load_corpus([renders, held], SIZE)
    with pytest.raises(UserError, match="for training"):
        load_corpus([renders], SIZE, held_out=True)
    with pytest.raises(UserError, match="does not divide"):
        load_corpus([renders], SIZE * 2)
    with pytest.raises(UserError, match="cache of renders"):
        load_corpus([photos], SIZE, "research")
    other = store(tmp_path / "other", render_records(1), face_model_sha1="0")
    with pytest.raises(UserError, match="another head model"):
        load_corpus([other], SIZE)
    assert len(load_corpus([held], SIZE, held_out=True).renders[0]) == 2
