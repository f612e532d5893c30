"""Batches of pairs: points, pictures and guide move together, and shares do not matter."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.rafare_pairs import ball_pairs
from lifemask.nn.sdf import at_points
from lifemask.training.rafare_batches import (
    Move,
    RafareBatchMaker,
    draw_move,
    laid_guide,
    lattice_points,
)
from lifemask.training.rafare_recipes import RafareAugment

MOVES = [Move(), Move(-1.0), Move(1.0, 1.1), Move(-1.0, 0.92, (0.08, -0.06, 0.04))]


@pytest.mark.parametrize("move", MOVES)
def test_the_guide_stays_on_the_surface(move: Move):
    """Points of the ball's front keep their normal and their distance to the moved guide."""
    pairs = ball_pairs(1, 96)
    depth, guide = pairs.guide_depth[0].float(), pairs.guide_normals[0].float() / 127
    image = pairs.image[0].float() / 255
    seen = move.pictures(image, pairs.region[0], guide, depth, guide)
    surface, normals = pairs.surface[0].float(), pairs.surface_normals[0].float()
    front = normals[:, 2] > 0.5
    where, outward = move.points(surface[front])[None], move.vectors(normals[front])
    maps = torch.cat((seen.depth.nan_to_num(0)[None], seen.normals))[None]
    found = at_points(maps, where)[0]
    told = where[0, :, 2] + 0.05 * move.scale  # the toy's guide lies 0.05 before the ball
    torch.testing.assert_close(found[:, 0], told, atol=0.02, rtol=0)
    torch.testing.assert_close(found[:, 1:], outward, atol=0.06, rtol=0)


def test_a_mirror_twice_changes_nothing():
    pairs = ball_pairs(1)
    given = (
        pairs.image[0].float() / 255, pairs.region[0], pairs.normals[0].float() / 127,
        pairs.guide_depth[0].float(), pairs.guide_normals[0].float() / 127,
    )  # fmt: skip
    once = Move(-1.0).pictures(*given)
    assert (once.image - given[0]).abs().max() > 0.1
    twice = Move(-1.0).pictures(once.image, once.region, once.normals, once.depth, once.guide)
    torch.testing.assert_close(twice.image, given[0])
    assert torch.equal(twice.region, given[1])
    torch.testing.assert_close(twice.depth, given[3], equal_nan=True, atol=1e-5, rtol=0)


def test_values_follow_the_size(monkeypatch: pytest.MonkeyPatch):
    """A ball grown by a tenth: distances grow, the box filter's residual shrinks."""
    from lifemask.training import rafare_batches

    pairs = ball_pairs(2)
    for part, factor in (("base", 1.1), ("fine", 1 / 1.1)):
        made = []
        for scale in (1.0, 1.1):
            monkeypatch.setattr(rafare_batches, "draw_move", lambda *_, s=scale: Move(1.0, s))
            maker = RafareBatchMaker(pairs, part, 1, 300, 0.1)  # pyright: ignore
            made.append(maker.row(0, np.random.default_rng(0)))
        torch.testing.assert_close(made[1].values, made[0].values * factor)
        torch.testing.assert_close(made[1].points, made[0].points * 1.1)


def test_values_are_those_of_the_points():
    pairs = ball_pairs(1)
    batch = RafareBatchMaker(pairs, "base", 1, 500, 0.0).row(0, np.random.default_rng(3))
    surface, outward = pairs.surface[0].float(), pairs.surface_normals[0].float()
    # the ball's centre and radius from two of its points
    a, b, c, d = surface[0], surface[1], outward[0], outward[1]
    radius = (a - b).norm() / (c - d).norm()
    centre = a - radius * c
    told = (batch.points[0] - centre).norm(dim=-1) - radius
    torch.testing.assert_close(batch.values[0], told, atol=5e-3, rtol=0)


def test_voxels_are_sampled_at_their_centres():
    corners = lattice_points(torch.tensor([[0, 0, 0], [23, 23, 23]]), 24)
    torch.testing.assert_close(corners, torch.tensor([[-23 / 24] * 3, [23 / 24] * 3]))


def test_shares_make_up_the_batch():
    maker = RafareBatchMaker(ball_pairs(), "base", 4, 100, 0.1, 10, RafareAugment(), 5)
    whole, parts = maker(7), [maker(7, share, 2) for share in range(2)]
    torch.testing.assert_close(torch.cat([p.points for p in parts]), whole.points)
    torch.testing.assert_close(torch.cat([p.view.picture for p in parts]), whole.view.picture)


def test_a_lost_guide_is_nowhere():
    pairs = ball_pairs(2)
    lost = RafareAugment(guide_lost=1.0)
    batch = RafareBatchMaker(pairs, "base", 2, 50, augment=lost)(0)
    assert batch.view.guide_there.abs().max() == 0
    assert batch.view.guide_normals.abs().max() == 0
    kept = RafareBatchMaker(pairs, "base", 2, 50, augment=replace(lost, guide_lost=0.0))(0)
    assert kept.view.guide_there.mean() > 0.1


def test_draws_stay_in_their_range():
    augment = RafareAugment()
    moves = [draw_move(np.random.default_rng(k), augment) for k in range(200)]
    assert {m.mirror for m in moves} == {-1.0, 1.0}
    assert all(0.9 <= m.scale <= 1.1 and max(map(abs, m.shift[:2])) <= 0.1 for m in moves)
    assert draw_move(np.random.default_rng(0), None) == Move()


def test_a_guide_is_laid_on_the_true_face():
    depth = np.full((8, 8), 0.3, np.float32)
    depth[:, :2] = np.nan
    guide = depth - 0.1
    guide[0, 0] = 5.0  # no truth there
    guide[:, 7] = 2.0  # hair: not the face
    region = np.full((8, 8), 4, np.uint8)
    region[:, 7] = 7
    pair = SimpleNamespace(depth=depth, guide_depth=guide, region=region)
    np.testing.assert_allclose(laid_guide(pair)[:, 2:7], 0.3, atol=1e-6)
    region[:] = 8
    np.testing.assert_array_equal(laid_guide(pair), guide)


def test_nothing_off_the_face_is_seen_or_known():
    pairs = ball_pairs(2)
    batch = RafareBatchMaker(pairs, "normals", 2, 50, augment=RafareAugment())(1)
    seen = batch.view.picture.abs().amax(1, keepdim=True) > 0
    assert not (batch.known.bool() & ~seen).any()
    lengths = batch.normals.norm(dim=1, keepdim=True)[batch.known > 0]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
