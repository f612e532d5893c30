"""The critic: sizes, bounded slopes, freezing, and that it tells true from false."""

import copy

import pytest
import torch
from torch import nn

from lifemask.nn.critic import Critic

NARROW = (8, 8, 8, 16, 16, 16)


def settle(critic: Critic, steps: int) -> Critic:
    """Let the power iterations run: one each time that a weight is used in training."""
    critic.train()
    with torch.no_grad():
        for _ in range(steps):
            for module in weighted(critic):
                _ = module.weight
    return critic.eval()


def weighted(critic: Critic) -> list[nn.Module]:
    return [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("size", [32, 112, 120])
def test_one_logit_per_face_at_any_size(size):
    torch.manual_seed(0)
    critic = Critic(62).eval()
    crops, p = torch.randn(3, 3, size, size), torch.randn(3, 62)
    with torch.no_grad():
        logits = critic(crops, p)
        single = torch.cat([critic(crops[i : i + 1], p[i : i + 1]) for i in range(3)])
    assert logits.shape == (3,)
    torch.testing.assert_close(logits, single, atol=1e-5, rtol=1e-4)


def test_layers_are_the_papers():
    critic = Critic(141)
    convolutions = [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in critic.modules() if isinstance(m, nn.Linear)]
    assert [c.out_channels for c in convolutions] == [16, 32, 64, 128, 128, 128]
    assert all(c.kernel_size == (3, 3) for c in convolutions)
    assert sum(isinstance(m, nn.MaxPool2d) for m in critic.modules()) == 6
    assert [m.out_features for m in linear] == [512, 1024, 1024, 1]
    assert linear[0].in_features == 128 * 2 * 2 + 141
    assert sum(p.numel() for p in critic.parameters()) == 2_303_393


@pytest.mark.parametrize("size", [112, 120])
def test_no_cell_is_pooled_twice_at_the_sizes_in_use(size):
    """The adaptive pool is the identity there: the six max pools alone leave 2 x 2 cells."""
    critic = Critic(5, NARROW)
    cells = critic.look[:-2](torch.zeros(1, 3, size, size))
    assert cells.shape == (1, 16, 2, 2)


def test_the_whole_crop_is_seen():
    """Sizes that six halvings do not divide lose no row or column."""
    torch.manual_seed(0)
    critic = Critic(5, NARROW).double()
    size = 120
    crops = torch.randn(1, 3, size, size, dtype=torch.float64)
    p = torch.zeros(1, 5, dtype=torch.float64)
    changed = crops.clone()
    changed[..., -1, -1] = 9.0
    critic.eval()
    with torch.no_grad():
        assert critic(crops, p) != critic(changed, p)


def test_no_weight_matrix_stretches():
    """However far training pushes the raw weights."""
    torch.manual_seed(0)
    critic = Critic(141)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(20.0)
    for module in weighted(settle(critic, 20)):
        assert isinstance(module.weight, torch.Tensor)
        largest = torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)
        assert 0.8 < float(largest) <= 1.1


def test_logits_move_no_further_than_coefficients():
    """The fully connected part is 1-Lipschitz: ReLU and unit matrices."""
    torch.manual_seed(0)
    critic = settle(Critic(141), 10)
    crops = torch.randn(64, 3, 64, 64)
    p, q = 3 * torch.randn(2, 64, 141)
    with torch.no_grad():
        moved = (critic(crops, p) - critic(crops, q)).abs()
    assert (moved <= 1.1 * (p - q).norm(dim=1)).all()
    assert moved.max() > 0


def test_freezing_keeps_the_gradient_of_what_it_judges():
    torch.manual_seed(0)
    critic = Critic(7, NARROW).requires_grad_(False)
    before = copy.deepcopy(dict(critic.named_parameters()))
    crops = torch.randn(2, 3, 112, 112, requires_grad=True)
    p = torch.randn(2, 7, requires_grad=True)
    critic(crops, p).sum().backward()
    assert crops.grad is not None and crops.grad.any()
    assert p.grad is not None and p.grad.any()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
    critic.requires_grad_(True)
    critic(crops.detach(), p.detach()).sum().backward()
    assert all(q.grad is not None for q in critic.parameters())


def test_two_passes_before_one_backward_pass():
    """Real and fake in turn: the power iteration must not spoil the first pass's graph."""
    torch.manual_seed(0)
    critic = Critic(7, NARROW)
    crops, p = torch.randn(2, 3, 112, 112), torch.randn(2, 7)
    (critic(crops, p).mean() - critic(crops, p.flip(0)).mean()).backward()
    assert all(q.grad is not None and q.grad.isfinite().all() for q in critic.parameters())


def test_weights_survive_saving(tmp_path):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    critic, twin = settle(Critic(7, NARROW), 3), Critic(7, NARROW).eval()
    save_file(critic.state_dict(), tmp_path / "critic.safetensors")
    twin.load_state_dict(load_file(tmp_path / "critic.safetensors"))
    crops, p = torch.randn(2, 3, 112, 112), torch.randn(2, 7)
    with torch.no_grad():
        torch.testing.assert_close(critic(crops, p), twin(crops, p), atol=0, rtol=0)


def test_first_logits_are_alive():
    """Scaled random matrices in a row would leave about 0.001."""
    torch.manual_seed(0)
    critic = settle(Critic(141), 3)
    with torch.no_grad():
        logits = critic(torch.randn(32, 3, 64, 64), torch.randn(32, 141))
    assert logits.std() > 0.02


def test_it_learns_which_coefficients_belong_to_which_picture():
    """Grey level and one coefficient agree in true pairs and are shuffled in false ones; the
    pictures are the same in both, so the picture alone tells nothing."""
    torch.manual_seed(0)
    critic = Critic(3, NARROW)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    truth = torch.cat((torch.ones(32), torch.zeros(32)))
    for _ in range(40):
        logits = critic(*_pairs(32))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        true, false = critic.eval()(*_pairs(400)).chunk(2)
    assert (true[:, None] > false[None]).float().mean() > 0.7


def _pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures twice, with their own coefficients and with those of another."""
    level = torch.rand(count) * 2 - 1
    crops = level[:, None, None, None] + 0.1 * torch.randn(count, 3, 32, 32)
    p = torch.stack((2 * level, torch.randn(count), torch.randn(count)), 1)
    return crops.repeat(2, 1, 1, 1), torch.cat((p, p.roll(1, 0)))
