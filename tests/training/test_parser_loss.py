"""The parser's loss: each term alone, ignored pixels, class balance, a naive twin."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from lifemask.data.regions import IGNORE
from lifemask.training.parser_loss import (
    ParserLoss,
    ParserLossConfig,
    class_weights,
    lovasz_loss,
    phase,
    soft_dice_loss,
)

PLAIN = ParserLossConfig(cross_entropy=1.0, dice=0.0, balance=0.0)


def example(seed=0, ignored=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 4, 6, 6, generator=generator, dtype=dtype)
    regions = torch.randint(0, 4, (2, 6, 6), generator=generator).byte()
    if ignored:
        regions[0, :2] = IGNORE
    return scores, regions


def test_plain_cross_entropy_is_torchs():
    scores, regions = example()
    expected = functional.cross_entropy(scores, regions.long(), ignore_index=IGNORE)
    loss, parts = ParserLoss(PLAIN)(scores, regions)
    torch.testing.assert_close(loss, expected)
    assert list(parts) == ["cross_entropy"]


def test_balance_is_torchs_weight_and_rare_classes_weigh_more():
    scores, regions = example()
    regions[regions == 3] = 0
    regions[1, 5, 5] = 3  # one pixel
    config = replace(PLAIN, balance=0.5, heaviest=100.0)
    known = regions != IGNORE
    weights = class_weights(regions.long().masked_fill(~known, 0), known, 4, config)
    share = 1 / int(known.sum())
    assert float(weights[3]) == pytest.approx((1 / (4 * share)) ** 0.5)
    expected = functional.cross_entropy(scores, regions.long(), weight=weights, ignore_index=IGNORE)
    torch.testing.assert_close(ParserLoss(config)(scores, regions)[0], expected)
    limited = class_weights(regions.long() * known, known, 4, replace(config, heaviest=2.0))
    assert float(limited.max()) == 2


def test_smoothing_is_torchs():
    scores, regions = example()
    expected = functional.cross_entropy(
        scores, regions.long(), ignore_index=IGNORE, label_smoothing=0.1
    )
    loss, _ = ParserLoss(replace(PLAIN, smoothing=0.1))(scores, regions)
    torch.testing.assert_close(loss, expected)


def test_dice_equals_its_naive_twin():
    scores, regions = example()
    p, known = scores.softmax(1), regions != IGNORE
    terms = []
    for c in range(4):
        true = ((regions == c) & known).float()
        own = p[:, c] * known
        terms.append(1 - 2 * (own * true).sum() / (own.sum() + true.sum()))
    loss, parts = ParserLoss(ParserLossConfig(cross_entropy=0.0))(scores, regions)
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert list(parts) == ["dice"]


def test_dice_leaves_absent_classes_out_and_is_zero_for_the_truth():
    regions = torch.tensor([[[0, 0], [1, 1]]])
    known = torch.ones_like(regions, dtype=torch.bool)
    truth = functional.one_hot(regions, 3).permute(0, 3, 1, 2).float()
    assert float(soft_dice_loss(truth, regions, known)) == pytest.approx(0, abs=1e-6)
    assert float(soft_dice_loss(truth.flip(1), regions, known)) > 0.4


@pytest.mark.parametrize(
    "config",
    [
        ParserLossConfig(dice=0.0),
        ParserLossConfig(cross_entropy=0.0),
        ParserLossConfig(cross_entropy=0.0, dice=0.0, lovasz=1.0),
        ParserLossConfig(),
    ],
)
def test_each_term_has_the_gradient_of_its_value_and_none_where_ignored(config):
    scores, regions = example(dtype=torch.float64)
    scores.requires_grad_()
    loss, _ = ParserLoss(config)(scores, regions)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert not gradient[0, :, :2].any() and gradient[1].abs().sum() > 0
    # A step against the gradient lowers the loss by what the gradient says.
    step = 1e-2 / float(gradient.norm())
    lower, _ = ParserLoss(config)(scores.detach() - step * gradient, regions)
    assert float((loss - lower).detach()) == pytest.approx(
        step * float(gradient.norm()) ** 2, rel=0.02
    )


@pytest.mark.parametrize("term", ["cross_entropy", "dice", "lovasz"])
def test_each_term_alone_teaches_the_map(term):
    weights = {"cross_entropy": 0.0, "dice": 0.0} | {term: 1.0}
    criterion = ParserLoss(ParserLossConfig(**weights))
    scores, regions = example()
    scores = scores.clone().requires_grad_()
    optimizer = torch.optim.Adam([scores], 0.2)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(scores, regions)[0].backward()
        optimizer.step()
    known = regions != IGNORE
    assert (scores.argmax(1)[known] == regions[known]).float().mean() > 0.99


def test_lovasz_of_hard_answers_is_one_minus_the_mean_iou():
    generator = torch.Generator().manual_seed(3)
    regions = torch.randint(0, 3, (2, 8, 8), generator=generator)
    known = torch.rand(2, 8, 8, generator=generator) > 0.2
    found = torch.where(torch.rand(2, 8, 8, generator=generator) > 0.3, regions, 2)
    said = functional.one_hot(found, 4).permute(0, 3, 1, 2).float()
    shares = []
    for c in range(3):  # class 3 never occurs and has no part in it
        true, own = (regions == c) & known, (found == c) & known
        shares.append((true & own).sum() / (true | own).sum())
    loss = lovasz_loss(said, regions, known)
    torch.testing.assert_close(loss, 1 - torch.stack(shares).mean())


def test_weights_scale_and_a_batch_without_labels_costs_nothing():
    scores, regions = example()
    whole, parts = ParserLoss(ParserLossConfig(cross_entropy=2.0, dice=0.5))(scores, regions)
    assert float(whole) == pytest.approx(2 * parts["cross_entropy"] + 0.5 * parts["dice"], rel=1e-5)
    nothing, _ = ParserLoss(ParserLossConfig())(scores, torch.full_like(regions, IGNORE))
    assert float(nothing) == 0


def test_with_a_stride_one_pixel_of_each_block_is_scored_and_all_take_turns():
    scores, regions = example()
    whole, strided = ParserLoss(ParserLossConfig()), ParserLoss(ParserLossConfig(stride=2))
    for step in range(4):
        row, column = phase(step, 2)
        part = (..., slice(row, None, 2), slice(column, None, 2))
        wanted, _ = whole(scores[part], regions[part])
        assert float(strided(scores, regions, step)[0]) == pytest.approx(float(wanted), rel=1e-6)
    assert sorted(phase(step, 2) for step in range(4, 8)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    scores.requires_grad_()
    strided(scores, regions, 3)[0].backward()
    assert scores.grad is not None and (scores.grad.abs().sum((0, 1)) > 0).sum() <= 9
