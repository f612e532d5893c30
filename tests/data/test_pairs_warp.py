"""Heads bent off their model: how far, how smoothly, and that numbers alone rebuild them."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from fake_pairs import create_noise, noise_pair
from fake_renders import make_data
from lifemask.assets import UserError
from lifemask.data._pairs_head import HeadParameters, create_kit
from lifemask.data._pairs_run import run_pairs
from lifemask.data._pairs_solid import eye_vertices
from lifemask.data._pairs_types import from_record, to_stored
from lifemask.data._pairs_warp import draw_warp_mm, warp_moves
from lifemask.data.pairs import PairsConfig, load_pairs
from lifemask.data.shards import ShardSet, write_shard
from lifemask.facemodel import load_face_model

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def kit():
    return create_kit("lifemask", 64)


def moves_of(kit, seed, rms_mm=2.0, eyes=None):
    eyes = eye_vertices(kit.model) if eyes is None else eyes
    return warp_moves(kit.rest_mm, eyes, rms_mm, seed)


def head_of(kit, warp_mm, seed=5):
    still = np.zeros(len(kit.model.expression_names), np.float32)
    identity = np.zeros(kit.model.identity_size, np.float32)
    return kit.head(HeadParameters("lifemask", identity, still, 0.3, seed, warp_mm))


def test_moves_are_as_long_as_asked_and_follow_from_the_seed(kit):
    lengths = torch.stack([moves_of(kit, seed).norm(dim=1) for seed in range(40)])
    assert lengths.pow(2).mean().sqrt() == pytest.approx(2.0, rel=0.1)
    assert torch.equal(moves_of(kit, 3), moves_of(kit, 3))
    assert not torch.equal(moves_of(kit, 3), moves_of(kit, 4))
    assert torch.allclose(moves_of(kit, 3, 4.0), 2 * moves_of(kit, 3, 2.0), atol=1e-5)


def test_neighbours_move_alike_and_the_sides_mostly(kit):
    faces = kit.model.topology.faces.long()
    moves = moves_of(kit, 7)
    edges = (kit.rest_mm[faces[:, 0]] - kit.rest_mm[faces[:, 1]]).norm(dim=1)
    apart = (moves[faces[:, 0]] - moves[faces[:, 1]]).norm(dim=1)
    assert (apart <= 0.5 * edges + 1e-4).all()  # nothing folds
    mirror = kit.model.topology.mirror
    fields = [moves_of(kit, seed) for seed in range(20)]
    own, other = torch.cat(fields), torch.cat([m[mirror] * MIRROR for m in fields])
    alike = float((own * other).sum() / (own * own).sum())
    assert alike == pytest.approx(0.6, abs=0.1)  # even less odd share: 0.8 - 0.2


def test_eyeballs_keep_their_shape(kit):
    moves, free = moves_of(kit, 9), moves_of(kit, 9, eyes=[])
    for eye in eye_vertices(kit.model):
        assert (moves[eye] - moves[eye].mean(0)).abs().max() < 1e-4
        assert (free[eye] - free[eye].mean(0)).abs().max() > 0.1  # without the rule it would not
    far = torch.ones(len(moves), dtype=torch.bool)
    for eye in eye_vertices(kit.model):
        far &= torch.cdist(kit.rest_mm, kit.rest_mm[eye]).amin(1) > 30
    assert far.any() and torch.allclose(moves[far], free[far])


def test_a_head_is_off_its_model_by_what_the_numbers_say(kit):
    still, bent = head_of(kit, 0.0), head_of(kit, 2.5)
    moved = moves_of(kit, 5, 2.5)
    assert torch.allclose(bent - still, moved, atol=1e-4)
    # the model cannot say it: most of the moves stay after the best identity
    zero = torch.zeros(len(kit.model.expression_names))
    rows = [
        (kit.model(torch.eye(kit.model.identity_size)[k], zero) - still).reshape(-1)
        for k in range(kit.model.identity_size)
    ]
    basis = torch.linalg.qr(torch.stack(rows, 1).double()).Q
    flat = moved.double().reshape(-1)
    assert (flat - basis @ (basis.T @ flat)).norm() > 0.6 * flat.norm()


def test_each_head_draws_its_own_amount():
    drawn = np.array([draw_warp_mm(3.0, seed) for seed in range(400)])
    assert drawn.min() >= 0 and drawn.max() <= 3 and drawn.mean() == pytest.approx(1.5, abs=0.15)
    assert draw_warp_mm(3.0, 8) == draw_warp_mm(3.0, 8) and draw_warp_mm(0.0, 8) == 0.0


def test_settings_out_of_range_are_refused():
    for wrong in (-1.0, 6.5, float("nan")):
        with pytest.raises(UserError, match="warp_mm"):
            PairsConfig(warp_mm=wrong)
    with pytest.raises(UserError, match="fitted_only has none"):
        PairsConfig(warp_mm=2.0, mode="fitted_only")


def test_it_is_kept_and_older_shards_are_read_as_unbent(tmp_path):
    path = tmp_path / "shard-000000.tar"
    stored = to_stored(replace(noise_pair(), warp_mm=1.75))
    write_shard([stored], path, 0, "png")
    with ShardSet([path]) as shard:
        assert from_record(shard[0]).warp_mm == 1.75
    facts = {name: value for name, value in stored.facts.items() if name != "warp_mm"}
    write_shard([replace(stored, facts=facts)], path, 0, "png")
    with ShardSet([path]) as shard:
        assert from_record(shard[0]).warp_mm == 0.0


def test_a_folder_from_before_goes_on_without_it_only(tmp_path):
    data, folder = make_data(tmp_path / "data"), tmp_path / "out"
    config = PairsConfig(seed=1, shard_size=4)

    def run(config, count):
        return run_pairs(config, folder, count, data, "local", 0, create=create_noise)

    run(config, 4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["warp_mm"] == asdict(config)["warp_mm"] == 0.0
    del manifest["settings"]["warp_mm"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="warp_mm 0.0, now 2.0"):
        run(replace(config, warp_mm=2.0), 8)
    run(config, 8)
    assert len(load_pairs(folder)) == 8


def test_a_model_without_eyes_is_bent_too():
    model = load_face_model("lifemask")
    with torch.no_grad():
        rest = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    assert warp_moves(rest, [], 1.0, 2).isfinite().all()
