"""Flow without weights: known shifts come back, light drops out, gradients point home."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lifemask.assets import UserError
from lifemask.nn.census_flow import FLOW_BACKENDS, RaftFlow, census_flow, load_flow, resized

SIDE = 64
INNER = slice(10, -10)


def texture(seed: int = 0, side: int = SIDE, batch: int = 1) -> Tensor:
    """(b, 3, side, side) smooth noise, a few px wide, in [0, 1]."""
    noise = torch.rand(
        batch, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed)
    )
    return functional.interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)


def shifted(image: Tensor, shift: Tensor) -> Tensor:
    """The image moved by (u, v) px: `result(x + shift) = image(x)`."""
    side = image.shape[-1]
    steps = (torch.arange(side, dtype=image.dtype) + 0.5) * 2 / side - 1
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack((u, v), -1) - shift * 2 / side
    return functional.grid_sample(
        image, grid.expand(len(image), -1, -1, -1), "bicubic", "border", align_corners=False
    )


def mean_flow(moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (2,) and mean absolute deviation from it, away from the border, by confidence."""
    flow = census_flow(moving, fixed)
    weight = flow.confidence[:, None, INNER, INNER]
    field = flow.field[..., INNER, INNER]
    mean = (weight * field).sum((0, 2, 3)) / weight.sum()
    return mean, (weight * (field - mean.view(1, 2, 1, 1)).abs()).sum() / weight.sum() / 2


def test_equal_images_have_no_flow_at_all() -> None:
    image = texture()
    assert torch.equal(census_flow(image, image).field, torch.zeros(1, 2, SIDE, SIDE))


@pytest.mark.parametrize("shift", [(2.0, -1.0), (1.0, 1.0), (0.5, 0.0), (-1.3, 0.7)])
def test_known_shifts_come_back(shift: tuple[float, float]) -> None:
    fixed = texture(1)
    mean, spread = mean_flow(shifted(fixed, torch.tensor(shift)), fixed)
    assert torch.allclose(mean, torch.tensor(shift), atol=0.12)
    assert spread < 0.2


def test_at_its_reach_the_window_pulls_inwards_a_little() -> None:
    fixed = texture(1)
    mean, _ = mean_flow(shifted(fixed, torch.tensor([-3.0, 0.0])), fixed)
    assert -3 < mean[0] < -2.5 and mean[1].abs() < 0.1


def test_flow_leads_from_the_fixed_image_into_the_moving_one() -> None:
    """`fixed(x) ~ moving(x + flow(x))`, checked by taking the moving image back."""
    fixed = texture(2)
    moving = shifted(fixed, torch.tensor([1.5, -0.8]))
    field = census_flow(moving, fixed).field
    steps = torch.arange(SIDE)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    place = (torch.stack((u, v), -1) + field[0].movedim(0, -1) + 0.5) * 2 / SIDE - 1
    back = functional.grid_sample(moving, place[None], align_corners=False)
    before, after = ((x - fixed)[..., INNER, INNER].abs().mean() for x in (moving, back))
    assert after < 0.3 * before


def test_swapping_the_images_flips_the_sign() -> None:
    one, two = texture(3), shifted(texture(3), torch.tensor([1.0, 0.4]))
    there, back = census_flow(one, two), census_flow(two, one)
    assert torch.allclose(there.field, -back.field, atol=1e-6)
    assert torch.equal(there.confidence, back.confidence)


def test_another_light_is_no_flow() -> None:
    fixed = texture(4)
    gain = torch.tensor([0.5, 0.45, 0.6]).view(1, 3, 1, 1)
    ramp = torch.linspace(0, 0.2, SIDE)
    flow = census_flow(gain * fixed + 0.2 + ramp, fixed)
    assert flow.field[..., INNER, INNER].abs().mean() < 0.06


def test_nothing_to_see_is_no_confidence() -> None:
    wall = torch.full((1, 3, SIDE, SIDE), 0.4)
    noise = 0.002 * torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    flat = census_flow(wall + noise[:1], wall + noise[1:])
    assert flat.confidence.max() < 0.02
    assert census_flow(texture(), texture()).confidence.mean() > 0.3


def test_confidence_has_no_gradient() -> None:
    moving = texture(1).requires_grad_()
    assert not census_flow(moving, texture(2)).confidence.requires_grad


@pytest.mark.parametrize("side", [80, 128])
def test_flow_is_told_in_px_of_64(side: int) -> None:
    fixed = texture(5, side)
    moving = shifted(fixed, torch.tensor([1.0, -1.5]) * side / SIDE)
    assert torch.allclose(mean_flow(moving, fixed)[0], torch.tensor([1.0, -1.5]), atol=0.15)


def test_descent_on_the_flow_brings_a_moved_image_back() -> None:
    fixed = texture(6)
    shift = torch.tensor([1.7, -1.2], requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        loss = census_flow(shifted(fixed, shift), fixed).field.abs().mean()
        loss.backward()
        optimizer.step()
    assert shift.detach().norm() < 0.1


def test_gradients_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 3, 10, 10, generator=generator, dtype=torch.float64)
    moving, fixed = (image.requires_grad_() for image in images)

    def field(moving: Tensor, fixed: Tensor) -> Tensor:
        return census_flow(moving, fixed, size=10, reach=1).field[..., 3:7, 3:7]

    assert torch.autograd.gradcheck(field, (moving, fixed), nondet_tol=1e-12)


def test_gradients_of_flat_images_are_finite() -> None:
    moving = torch.full((1, 3, SIDE, SIDE), 0.5, requires_grad=True)
    census_flow(moving, torch.zeros(1, 3, SIDE, SIDE)).field.abs().sum().backward()
    assert moving.grad is not None and bool(moving.grad.isfinite().all())


def test_a_batch_is_its_images() -> None:
    fixed, moving = texture(7, batch=3), texture(8, batch=3)
    together = census_flow(moving, fixed)
    for i in range(3):
        alone = census_flow(moving[i : i + 1], fixed[i : i + 1])
        assert torch.allclose(together.field[i], alone.field[0], atol=1e-5)


def test_resized_keeps_what_has_the_size() -> None:
    image = texture()
    assert resized(image, SIDE) is image
    assert torch.allclose(resized(torch.full((1, 3, 20, 20), 0.3), 8), torch.tensor(0.3))


# backends


def test_backends_have_names() -> None:
    assert set(FLOW_BACKENDS) == {"census", "raft"}
    moving, fixed = texture(1, 96), texture(2, 96)
    found = load_flow("census", 32)(moving, fixed)
    assert found.field.shape == (1, 2, 32, 32) and found.confidence.shape == (1, 32, 32)
    with pytest.raises(UserError, match="unknown flow backend 'horn'; valid: census, raft"):
        load_flow("horn")


def test_raft_without_torchvision_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="needs torchvision"):
        load_flow("raft")


class GlobalShift(nn.Module):
    """Stands for RAFT: the one shift that explains the images best, in every update."""

    REACH = 6

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(300.0))
        self.seen: list[tuple[Tensor, int]] = []

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> list[Tensor]:
        self.seen.append((image1, num_flow_updates))
        height, width = image1.shape[-2:]
        assert image1.shape == image2.shape and height % 8 == width % 8 == 0
        steps = torch.arange(-self.REACH, self.REACH + 1)
        shifts = torch.cartesian_prod(steps, steps)
        moved = [image2.roll((-int(v), -int(u)), (2, 3)) for u, v in shifts]
        costs = torch.stack([(image1 - image).abs().mean((1, 2, 3)) for image in moved], 1)
        share = (-self.sharpness * costs).softmax(1)
        flow = (share @ shifts.float()).view(-1, 2, 1, 1).expand(-1, 2, height, width)
        return [flow] * num_flow_updates


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A torchvision that has `models.optical_flow.raft_small` only; records its arguments."""
    asked: list[dict] = []

    def raft_small(*, weights: str | None = None, progress: bool = True, **kwargs) -> nn.Module:
        asked.append({"weights": weights, "progress": progress, **kwargs})
        return GlobalShift()

    names = ("torchvision", "torchvision.models", "torchvision.models.optical_flow")
    modules = [ModuleType(name) for name in names]
    modules[0].models = modules[1]  # type: ignore[attr-defined]
    modules[1].optical_flow = modules[2]  # type: ignore[attr-defined]
    modules[2].raft_small = raft_small  # type: ignore[attr-defined]
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_raft_keeps_the_convention(torchvision: list[dict]) -> None:
    backend = load_flow("raft")
    assert isinstance(backend, RaftFlow)
    assert torchvision == [{"weights": "DEFAULT", "progress": False}]
    fixed = texture(9)
    moving = fixed.roll((-1, 2), (2, 3)).requires_grad_()
    found = backend(moving, fixed)
    assert found.field.shape == (1, 2, SIDE, SIDE)
    assert torch.allclose(found.field.mean((2, 3)), torch.tensor([[2.0, -1.0]]), atol=0.1)
    assert torch.equal(found.confidence, torch.ones(1, SIDE, SIDE))
    found.field.abs().sum().backward()
    assert moving.grad is not None and float(moving.grad.abs().sum()) > 0


def test_raft_sees_what_it_was_trained_on() -> None:
    network = GlobalShift()
    RaftFlow(network, size=40, updates=3)(texture(1, 80), texture(2, 80))
    image, updates = network.seen[0]
    assert image.shape[-1] == 128 and updates == 3
    assert image.min() >= -1 and image.max() <= 1 and image.min() < -0.5
    assert not network.sharpness.requires_grad and not network.training


def test_raft_without_its_weights_is_a_users_error(
    torchvision: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(**_):
        raise OSError("no network")

    monkeypatch.setattr(sys.modules["torchvision.models.optical_flow"], "raft_small", offline)
    with pytest.raises(UserError, match="no network"):
        load_flow("raft")
