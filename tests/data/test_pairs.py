"""Pairs from end to end: what is stored is what is made, and it can be made again."""

from dataclasses import fields, replace

import numpy as np
import pytest

from fake_pairs import noise_pair
from lifemask.assets import UserError
from lifemask.data._pairs_fit import REASONS
from lifemask.data._pairs_maker import PairsMaker
from lifemask.data._pairs_sheet import sheet
from lifemask.data._pairs_source import (
    CropPhotos,
    FolderPhotos,
    RenderedPhotos,
    Source,
    Sources,
)
from lifemask.data._pairs_types import from_record, to_stored
from lifemask.data.pairs import (
    DEVELOPMENT_SEED,
    Pair,
    PairsConfig,
    camera_of,
    create_pairs_maker,
    load_pairs,
    true_head,
    true_solid,
)
from lifemask.data.shards import ShardSet, write_shard
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import project
from lifemask.types import FACE_CLASSES

SMALL = PairsConfig(
    seed=DEVELOPMENT_SEED + 5, size=64, grid=48, near=3000, bank_size=2, shard_size=4
)


def stored_and_read(pair: Pair, tmp_path) -> Pair:
    path = tmp_path / "shard-000000.tar"
    write_shard([to_stored(pair)], path, 0, "png")
    with ShardSet([path]) as shard:
        return from_record(shard[0])


@pytest.mark.parametrize("points, surface", [(700, 500), (40, 6)])
def test_a_pair_comes_back_from_its_shard(tmp_path, points, surface):
    pair = noise_pair(points=points, surface=surface)
    back = stored_and_read(pair, tmp_path)
    for field in fields(Pair):
        made, read = getattr(pair, field.name), getattr(back, field.name)
        if not isinstance(made, np.ndarray):
            assert read == made and type(read) is type(made), field.name
            continue
        assert read.dtype == made.dtype and read.shape == made.shape, field.name
        if "normals" in field.name and made.dtype == np.float32:
            assert (read * made).sum(-1)[3:].min() > 0.999 and not read[:3].any()
        else:
            step = 1e-4 if "depth" in field.name else (1e-3 if made.dtype == np.float16 else 0)
            assert np.allclose(read, made, atol=step, rtol=step, equal_nan=True), field.name


def test_settings_that_cannot_work_are_refused():
    for wrong in (
        {"mode": "neither"}, {"heads": "flame"}, {"blend": "feather"}, {"complete": "net"},
        {"inpaint": "telea"}, {"size": 4}, {"grid": 0}, {"box": 4}, {"box": 0}, {"near": 1},
        {"attempts": 0}, {"shard_size": 0}, {"bank_size": 0},
    ):  # fmt: skip
        with pytest.raises(UserError, match=next(iter(wrong))):
            replace(SMALL, **wrong)
    assert SMALL.held_out and not replace(SMALL, seed=7).held_out


class NoFaces(Sources):
    """Photos without faces."""

    def draw(self, index, attempt, banks):
        return None


def test_photos_that_cannot_be_used_end_the_run():
    maker = PairsMaker(replace(SMALL, attempts=3), [], None, NoFaces())  # pyright: ignore
    with pytest.raises(UserError, match="none of 3 photos for pair 8 .*3 no face.*--photos"):
        list(maker.make([None], [8]))  # pyright: ignore


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(UserError, match="no pictures"):
        FolderPhotos(tmp_path, 0)


@pytest.fixture(scope="module")
def maker(shared_data):
    return create_pairs_maker(SMALL, shared_data)


@pytest.fixture(scope="module")
def banks(maker):
    return maker.banks(0)


@pytest.fixture(scope="module")
def pairs(maker, banks):
    return list(maker.make(banks, [0, 1, 2]))


def same(a: Pair, b: Pair) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name), equal_nan="depth" in f.name)
        if isinstance(getattr(a, f.name), np.ndarray)
        else getattr(a, f.name) == getattr(b, f.name)
        for f in fields(Pair)
    )


def test_a_pair_follows_from_seed_and_number(maker, banks, pairs):
    again = next(iter(maker.make(banks, [2])))
    assert same(again, pairs[2]) and not same(again, pairs[1])
    assert [p.person for p in pairs] == [0, 1, 2]
    for pair in pairs:
        assert pair.source == pair.person * SMALL.attempts + sum(pair.rejected.values())
        assert set(pair.rejected) == set(REASONS) and 0 < pair.residual <= 4


def test_the_picture_shows_the_truth(pairs, tmp_path):
    """The silhouette of the truth, made anew from what is stored, is the swapped face's."""
    for pair in pairs:
        back = stored_and_read(pair, tmp_path)
        depth, normals = true_solid(back).front(pair.size)
        shown, face = np.isfinite(back.depth), back.region < FACE_CLASSES
        assert shown.mean() > 0.08
        assert (shown & face).sum() / (shown | face).sum() > 0.97
        assert np.isfinite(depth[shown]).all()
        assert np.abs(depth - back.depth)[shown].max() < 1e-3
        assert (normals * back.normals).sum(-1)[shown].min() > 0.99
        assert not back.normals[~shown].any() and np.isnan(back.depth[~shown]).all()


def test_distances_are_those_of_the_truth(pairs):
    pytest.importorskip("igl")
    for pair in pairs:
        solid, step = true_solid(pair), 2 / SMALL.grid
        assert (pair.points >= 0).all() and (pair.points < SMALL.grid).all()
        assert len(pair.points) == SMALL.near and len(pair.uniform) == SMALL.near // 10
        places = (pair.points[:300].astype(float) + 0.5) * step - 1
        d = solid.distance(places)
        assert np.quantile(np.abs(d - pair.sdf[:300]), 0.98) < 1e-4
        around = np.stack(np.meshgrid(*3 * [[-1, 0, 1]], indexing="ij"), -1).reshape(-1, 3) * step
        box = solid.distance((places[:, None] + around).reshape(-1, 3)).reshape(-1, 27).mean(1)
        assert np.quantile(np.abs(1000 * (d - box) - pair.fine[:300]), 0.95) < 0.05
        surface = np.abs(solid.distance(pair.surface.astype(float)))
        assert np.quantile(surface, 0.9) < 0.01, "points at the pixels' centres, kept in halves"


def test_the_head_can_be_rebuilt_and_looks_where_the_picture_has_it(pairs):
    model = load_face_model("lifemask")
    for pair in pairs:
        head = true_head(pair)
        points = project(model.landmarks(head.vertices_mm, "ict68"), camera_of(pair))[27:]
        assert (points[:, :2] > 0).all() and (points[:, :2] < pair.size).all()
        assert abs(float(points[:, :2].mean()) - pair.size / 2) < 0.2 * pair.size


def test_the_guide_is_a_head_near_the_truth(pairs):
    apart = np.concatenate([(p.guide_depth - p.depth).ravel() for p in pairs])
    assert np.nanmedian(np.abs(apart)) < 0.08
    agree = np.concatenate([(p.guide_normals * p.normals).sum(-1)[p.depth > -9] for p in pairs])
    assert np.median(agree) > 0.9


@pytest.mark.parametrize("mode", ["fitted_only", "renders_only"])
def test_other_kinds_of_pairs(shared_data, maker, mode):
    """The fixture's models and networks, other settings."""
    other = PairsMaker(
        replace(SMALL, mode=mode, complete="none"), maker._wardrobes, maker._networks,
        maker._sources,
    )  # fmt: skip
    banks = other.banks(0)
    pair = next(iter(other.make(banks, [0])))
    shown = np.isfinite(pair.depth)
    assert (true_solid(pair).front(pair.size)[0][shown] - pair.depth[shown]).std() < 1e-3
    if mode == "fitted_only":
        assert pair.detail_seed == -1 and pair.source >= 0
        assert shown.sum() > 0.8 * (pair.region < FACE_CLASSES).sum()
    else:
        assert pair.source == -1 and not any(pair.rejected.values())
        face = pair.region < FACE_CLASSES
        assert face[shown].all() and shown.sum() > 0.95 * face.sum()


def test_pasting_differs_inside_alone(maker, banks, pairs):
    pasting = PairsMaker(
        replace(SMALL, blend="paste"), maker._wardrobes, maker._networks, maker._sources
    )
    pasted = next(iter(pasting.make(banks, [0])))
    assert np.array_equal(pasted.region, pairs[0].region)
    assert np.array_equal(pasted.sdf, pairs[0].sdf)
    differ = (pasted.image != pairs[0].image).any(-1)
    assert differ.any() and not differ[pairs[0].region == 8].any()


def test_rendered_photos_tell_their_landmark_square(maker, banks):
    generator = maker._wardrobes[0].generator
    source = RenderedPhotos(generator, 16).draw(3, 2, banks[0])
    assert isinstance(source, Source) and source.index == 50
    low, top, high, bottom = source.face
    side = len(source.image)
    assert (low, high) == (top, bottom) and low + high == pytest.approx(side - 1)
    assert (high - low) * 1.5 == pytest.approx(side)


def test_a_sheet_shows_every_pair(pairs):
    picture = sheet(pairs, columns=2)
    assert picture.shape == (2 * 64, 2 * 6 * 64, 3)
    assert np.array_equal(picture[:64, :64], pairs[0].image)
    assert picture[64:, 6 * 64 :].max() == 0


@pytest.mark.slow
def test_crops_of_real_photos(shared_data):
    banks = None
    training, held_out = (CropPhotos(shared_data / "aflw21", 3, held) for held in (False, True))
    first, again = (training.draw(4, 1, banks) for _ in range(2))  # pyright: ignore
    assert first.index == again.index and np.array_equal(first.image, again.image)
    assert first.index != training.draw(4, 2, banks).index  # pyright: ignore
    assert first.face == (-0.5, -0.5, 119.5, 119.5) and len(training) > 10 * len(held_out) > 0


@pytest.mark.slow
def test_heads_of_ict_facekit(shared_data):
    maker = create_pairs_maker(replace(SMALL, heads="ict"), shared_data)
    pair = next(iter(maker.make(maker.banks(0), [1])))
    assert pair.heads == "ict" and len(pair.identity) == 100
    solid = true_solid(pair, shared_data)
    shown = np.isfinite(pair.depth)
    assert np.abs(solid.front(pair.size)[0] - pair.depth)[shown].max() < 1e-3
    assert len(solid.balls) == 2 and set(np.unique(solid.winding(pair.surface * 0.0))) <= {0, 1}


def test_no_pairs_in_a_folder(tmp_path):
    with pytest.raises(UserError, match="lifemask pairs -o"):
        load_pairs(tmp_path)
