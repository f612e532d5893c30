"""Sets of pictures with region maps: the render cache and its traps."""

import json

import numpy as np
import pytest

from lifemask.assets import UserError
from lifemask.data.regions import (
    GLASSES,
    IGNORE,
    SQUARE_EXPAND,
    RegionSet,
    load_region_cache,
    merged,
    split_glasses,
)
from lifemask.types import REGION_NAMES


def write_cache(folder, shards=2, count=3, size=16, **header):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    names = []
    for n in range(shards):
        entry = {"images": f"images-{n:04d}.npy", "regions": f"regions-{n:04d}.npy"}
        np.save(folder / entry["images"], rng.integers(0, 256, (count, size, size, 3), np.uint8))
        np.save(folder / entry["regions"], rng.integers(0, 9, (count, size, size), np.uint8))
        names.append(entry)
    values = {
        "licence": "open",
        "nominal_side_px": size / SQUARE_EXPAND,
        "region_names": list(REGION_NAMES),
        "shards": names,
    }
    (folder / "header.json").write_text(json.dumps(values | header))
    return folder


def test_cache_is_mapped_and_its_whole_picture_is_the_nominal_view(tmp_path):
    found = load_region_cache(write_cache(tmp_path))
    assert len(found) == 6 and found.view_side_px == pytest.approx(16)
    assert all(isinstance(shard, np.memmap) for shard in found.images)


def test_gather_finds_the_right_shard(tmp_path):
    found = load_region_cache(write_cache(tmp_path))
    images, regions = found.gather(np.array([4, 0, 2]))
    for k, (shard, row) in enumerate(((1, 1), (0, 0), (0, 2))):
        assert np.array_equal(images[k], found.images[shard][row])
        assert np.array_equal(regions[k], found.regions[shard][row])
    part = found.subset(np.array([4, 0, 2]))
    assert len(part) == 3 and np.array_equal(part.images[0], images)


def test_shards_are_chosen_in_the_headers_order(tmp_path):
    cache = write_cache(tmp_path, shards=3)
    first, rest = load_region_cache(cache, slice(0, 1)), load_region_cache(cache, slice(1, None))
    assert (len(first), len(rest)) == (3, 6)
    assert not np.array_equal(first.images[0], rest.images[0])


def test_caches_without_maps_or_with_other_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="no cache of renders"):
        load_region_cache(tmp_path)
    write_cache(tmp_path / "a", shards=0)
    with pytest.raises(UserError, match="no complete shard with region maps"):
        load_region_cache(tmp_path / "a")
    old = write_cache(tmp_path / "b", shards=0)
    header = json.loads((old / "header.json").read_text())
    header["shards"] = [{"images": "images-0000.npy", "labels": "labels-0000.npz"}]
    (old / "header.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="no complete shard with region maps"):
        load_region_cache(old)
    with pytest.raises(UserError, match="make it anew"):
        load_region_cache(write_cache(tmp_path / "c", region_names=["face", "rest"]))


def test_a_missing_shard_is_named(tmp_path):
    cache = write_cache(tmp_path)
    (cache / "regions-0001.npy").unlink()
    with pytest.raises(UserError, match="regions-0001.npy"):
        load_region_cache(cache)


def test_length_counts_all_shards():
    shard = np.zeros((2, 4, 4, 3), np.uint8)
    one = RegionSet("x", (shard, shard), (shard[..., 0], shard[..., 0]), 4.0)
    assert len(one) == 4


def test_merged_sets_keep_their_order_and_must_fit(tmp_path):
    first = load_region_cache(write_cache(tmp_path / "a", shards=1))
    second = load_region_cache(write_cache(tmp_path / "b", shards=2, count=4))
    both = merged(first, second)
    assert len(both) == 11
    assert np.array_equal(both.gather(np.array([3]))[0], second.gather(np.array([0]))[0])
    with pytest.raises(ValueError, match="do not go together"):
        merged(first, load_region_cache(write_cache(tmp_path / "c", size=8)))


def test_glasses_are_told_beside_the_classes():
    maps = np.array([[4, 4 | GLASSES, 8 | GLASSES, IGNORE]], np.uint8)
    classes, worn = split_glasses(maps)
    assert classes.tolist() == [[4, 4, 8, IGNORE]]
    assert worn.tolist() == [[False, True, True, False]]


def test_a_cache_says_whether_it_tells_glasses(tmp_path):
    silent = load_region_cache(write_cache(tmp_path / "a"))
    telling = load_region_cache(write_cache(tmp_path / "b", region_flags={"glasses": GLASSES}))
    assert (silent.glasses, telling.glasses) == (False, True)
    assert telling.subset(np.array([1])).glasses
    assert merged(telling, telling).glasses and not merged(telling, silent).glasses
