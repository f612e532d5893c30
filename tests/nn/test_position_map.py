"""The decoder of position maps and the second look: shapes, starts, where they look."""

import pytest
import torch

from lifemask.nn.position_map import START_CELLS, PositionDecoder, SecondLook


@pytest.mark.parametrize(
    ("widths", "size"), [((16, 8, 8), 32), ((16, 8, 8, 4), 64), ((16, 8, 8), 64), ((8,), 8)]
)
def test_a_map_of_the_wanted_size_from_either_kind_of_features(widths, size):
    vector = PositionDecoder(20, widths, size, from_vector=True)
    cells = PositionDecoder(20, widths, size, from_vector=False)
    assert vector(torch.rand(2, 20)).shape == (2, 4, size, size)
    for side in (3, 7, 8):
        assert cells(torch.rand(2, 20, side, side)).shape == (2, 4, size, size)


@pytest.mark.parametrize("from_vector", [True, False])
def test_an_untrained_decoder_changes_little(from_vector):
    torch.manual_seed(0)
    decoder = PositionDecoder(384, (64, 48, 32), 64, from_vector)
    features = torch.rand(4, 384) if from_vector else torch.rand(4, 384, 7, 7)
    change = decoder(features)
    assert 0 < change.abs().mean() < 0.1 and change.abs().max() < 0.5
    assert decoder.leave.bias is not None and not decoder.leave.bias.any()


def test_a_batch_equals_single_maps():
    torch.manual_seed(0)
    decoder = PositionDecoder(12, (16, 8, 8), 32, from_vector=True)
    features = torch.rand(3, 12)
    alone = torch.cat([decoder(one[None]) for one in features])
    torch.testing.assert_close(decoder(features), alone, atol=1e-5, rtol=1e-4)


def test_cells_keep_their_place():
    """What stands in the upper left of the features changes the upper left of the map most."""
    torch.manual_seed(0)
    decoder = PositionDecoder(6, (8, 8, 8), 32, from_vector=False)
    features = torch.rand(1, 6, START_CELLS, START_CELLS)
    other = features.clone()
    other[:, :, :2, :2] += 1
    change = (decoder(other) - decoder(features)).abs().mean((0, 1))
    assert change[:8, :8].mean() > 3 * change[16:, 16:].mean()


def test_a_second_look_starts_as_no_correction():
    torch.manual_seed(0)
    look = SecondLook(6, 5, 12, kept=4, width=16)
    correction, hidden = look(torch.rand(3, 6, 28, 28), torch.rand(3, 5, 2) - 0.5)
    assert correction.shape == (3, 12) and hidden.shape == (3, look.width) == (3, 16)
    assert not correction.any() and hidden.any()


def test_a_second_look_reads_the_features_at_its_points():
    """Half-crops are the grid's own coordinates: a cell's centre is ((i + 0.5) / n) * 2 - 1."""
    look = SecondLook(1, 1, 2, kept=1, width=4)
    with torch.no_grad():
        look.narrow.weight.fill_(1.0)
        look.narrow.bias.zero_()  # type: ignore[union-attr]
        look.mix[0].weight.fill_(1.0)  # type: ignore[operator]
        look.mix[0].bias.zero_()  # type: ignore[operator]
    features = torch.zeros(1, 1, 28, 28)
    features[0, 0, 5, 20] = 7.0
    at = torch.tensor([[[(20.5 / 28) * 2 - 1, (5.5 / 28) * 2 - 1]]])
    for place, seen in ((at, 7.0), (at + torch.tensor([1 / 28, 0.0]), 3.5), (at.flip(-1), 0.0)):
        torch.testing.assert_close(look(features, place)[1], torch.full((1, 4), seen))
    features[0, 0, :, 27] = 2.0
    outside = look(features, torch.tensor([[[3.0, 0.0]]]))[1]
    torch.testing.assert_close(outside, torch.full((1, 4), 2.0))  # the border goes on


def test_a_second_look_leaves_the_points_to_others():
    """They are told by the first look; a gradient through the places would pull them about."""
    look = SecondLook(3, 4, 8)
    features = torch.rand(2, 3, 28, 28, requires_grad=True)
    points = (torch.rand(2, 4, 2) - 0.5).requires_grad_()
    correction, hidden = look(features, points)
    (correction.sum() + hidden.sum()).backward()
    assert points.grad is None and features.grad is not None and features.grad.any()
