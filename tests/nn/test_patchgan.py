"""The critic of patches: what one answer sees, its sizes, and the least-squares game."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lifemask.nn.patchgan import PatchGan, lsgan


def seen_by_one_answer(critic: PatchGan, size: int) -> int:
    """Side of the square of pixels on which the middle answer depends by its convolutions."""
    plain = nn.Sequential(*(m for m in critic.layers if isinstance(m, nn.Conv2d)))
    for m in plain:
        nn.init.constant_(m.weight, 0.01)  # nothing may cancel
    picture = torch.zeros(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    scores = plain.double()(picture)
    middle = scores.shape[-1] // 2
    scores[0, 0, middle, middle].backward()
    used = picture.grad[0].abs().sum(0) > 0
    rows, columns = used.any(1), used.any(0)
    assert torch.equal(rows, columns)
    return int(rows.sum())


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70)])
def test_one_answer_sees_a_square(layers, side):
    """70 px with the published three layers."""
    assert seen_by_one_answer(PatchGan(3, 4, layers), 160) == side


def test_layers_are_the_published_ones():
    convolutions = [m for m in PatchGan().layers if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 128, 256, 512, 1]
    assert [m.stride[0] for m in convolutions] == [2, 2, 2, 1, 1]
    assert all(m.kernel_size == (4, 4) for m in convolutions)


@pytest.mark.parametrize("width", [4, 8, 16, 24, 48, 64])
@pytest.mark.parametrize("size", [32, 64])
def test_every_width_and_size_in_use(width, size):
    scores = PatchGan(3, width)(torch.randn(2, 3, size, size))
    assert scores.shape == (2, 1, size // 8 - 2, size // 8 - 2) and scores.isfinite().all()


def test_pictures_do_not_see_each_other():
    torch.manual_seed(0)
    critic, pictures = PatchGan(3, 8), torch.randn(3, 3, 48, 48)
    alone = torch.cat([critic(one[None]) for one in pictures])
    torch.testing.assert_close(critic(pictures), alone, atol=1e-5, rtol=1e-4)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_least_squares(score, wanted):
    scores = torch.full((2, 1, 3, 3), score, dtype=torch.float64)
    assert float(lsgan(scores, wanted)) == pytest.approx((score - wanted) ** 2, abs=1e-9)


def test_it_learns_to_tell_stripes_from_noise():
    torch.manual_seed(0)
    critic = PatchGan(3, 8)
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3)

    def pictures(seed):
        draw = torch.Generator().manual_seed(seed)
        noise = torch.rand(4, 3, 32, 32, generator=draw) * 2 - 1
        shift = torch.rand(4, 1, 1, 1, generator=draw) * 6
        stripes = torch.sin(torch.arange(32) * 0.8 + shift).expand(4, 3, 32, 32)
        return stripes + 0.3 * noise, noise

    for step in range(40):
        real, made = pictures(step)
        optimizer.zero_grad()
        (lsgan(critic(real), 1.0) + lsgan(critic(made), 0.0)).backward()
        optimizer.step()
    real, made = pictures(999)
    with torch.no_grad():
        apart = critic(real).mean((1, 2, 3)), critic(made).mean((1, 2, 3))
    assert apart[0].min() > 0.6 > 0.4 > apart[1].max()
