"""2DASL's self-critic: it compares coefficients with pictures, and learns apart from the network.

Pictures are small drawings: the levels of the three channels show the first three coefficients of
identity. "Wild" pictures bear a checkerboard on top, as photos differ from renders.
"""

import copy
import functools

import pytest
import torch
from torch.nn import functional

from helpers.dasl_heads import mask_model, random_labels, whitened_head
from helpers.dasl_terms import mesh_mm, only, target, two_passes
from lifemask.methods._dasl_loss import DaslLoss, frozen
from lifemask.methods._targets import HeadLabels
from lifemask.nn import critic as critic_module

PX, BATCH, TRAINED, STEPS = 32, 32, 1800, 230


@functools.cache
def people():
    """Heads, their model and their labels; the last 200 are never trained on."""
    model = mask_model()
    return whitened_head("rot6d", model), model, random_labels(model, TRAINED + 200, seed=0)


def chosen(ids) -> HeadLabels:
    labels = people()[2]
    return HeadLabels(*(getattr(labels, n)[ids] for n in HeadLabels.__dataclass_fields__))


def pictures(ids, seed, wild=False):
    levels = torch.tanh(people()[2].identity[ids, :3] / 1.5)[:, :, None, None]
    generator = torch.Generator().manual_seed(seed)
    shown = 0.8 * levels + 0.1 * torch.randn(*levels.shape[:2], PX, PX, generator=generator)
    board = (torch.arange(PX)[:, None] + torch.arange(PX)) % 2
    return shown + 0.4 * board if wild else shown


def true_p(ids):
    head = people()[0]
    return head.whitened(head.pack(chosen(ids)))


@pytest.fixture(scope="module")
def small_critic():
    """Narrow layers: these tests ask what is learned, not how much fits in."""
    patch = pytest.MonkeyPatch()
    patch.setattr(critic_module, "FULLY_CONNECTED", (64, 128, 128))
    torch.manual_seed(0)
    yield lambda: critic_module.Critic(people()[0].size, (8,) * 6)
    patch.undo()


def trained(critic, all_fakes: bool, steps: int):
    """A critic after a short training with a network that is off by half a deviation.

    Args:
        critic: fresh.
        all_fakes: as `DaslLoss` does it; False: the only fakes are wild pictures.
        steps: of Adam.
    """
    loss = DaslLoss(people()[0], only(critic=1.0), critic)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        known, seen = torch.randint(0, TRAINED, (2, BATCH), generator=generator)
        crops, wild = pictures(known, step), pictures(seen, step, wild=True)
        guessed, said = (
            true_p(ids) + 0.5 * torch.randn(BATCH, loss.head.size, generator=generator)
            for ids in (known, seen)
        )
        if all_fakes:
            value = loss.judge(crops, true_p(known), guessed, wild, said)
        else:
            value = functional.softplus(-critic(crops, true_p(known))).mean()
            value = value + functional.softplus(critic(wild, said)).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return loss.eval()


@pytest.fixture(scope="module")
def judging(small_critic):
    return trained(small_critic(), True, STEPS)


def auc(true, false):
    """Chance that a true pair scores higher than a false one."""
    return float((true[:, None] > false[None]).float().mean())


@torch.no_grad()
def verdicts(loss):
    """AUC of true against permuted pairs on the same new pictures, and against wild ones."""
    ids = torch.arange(TRAINED, TRAINED + 200)
    crops, p = pictures(ids, 7), true_p(ids)
    same = loss.critic(crops, p)
    permuted = loss.critic(crops, p.roll(1, 0))
    return auc(same, permuted), auc(same, loss.critic(pictures(ids, 7, wild=True), p))


def test_it_tells_true_from_permuted_coefficients_on_the_same_pictures(judging):
    same, _ = verdicts(judging)
    assert same > 0.8, same


def test_with_wild_fakes_alone_it_would_cheat(small_critic):
    """It is right about its training task by the look of pictures and ignores coefficients."""
    same, by_look = verdicts(trained(small_critic(), False, 80))
    assert by_look > 0.99
    assert 0.45 < same < 0.55, same


def batch(head, model, known, wild, shift=0.0):
    """Two passes over labelled pictures, then unlabelled ones of the same look."""
    truth = true_p(torch.cat((known, wild)))
    p = (truth + shift).requires_grad_()
    crops = torch.cat((pictures(known, 1), pictures(wild, 2)))
    targets = [target(model, chosen(known), "renders")]
    targets.append(target(model, chosen(wild), "found", len(known)))
    return p, two_passes(head, p, crops=crops), targets


def test_gradients_of_network_and_critic_keep_to_themselves(small_critic):
    head, model, _ = people()
    critic = small_critic()
    loss = DaslLoss(head, only(critic=0.01), critic).eval()
    p, passes, targets = batch(head, model, torch.arange(3), torch.arange(3, 8), shift=0.3)
    total, parts = loss(passes, targets)
    total.backward()
    got = {n: torch.clone(w.grad) for n, w in critic.named_parameters() if w.grad is not None}
    assert len(got) == len(list(critic.parameters()))

    twin = copy.deepcopy(critic).requires_grad_(False)
    q = p.detach()[3:].requires_grad_()
    fooled = 0.01 * functional.softplus(-twin(passes.crops[3:], q)).mean()
    fooled.backward()
    torch.testing.assert_close(parts["critic"], fooled.detach())
    assert p.grad is not None and (p.grad[:3] == 0).all()  # judged pictures teach the critic only
    torch.testing.assert_close(p.grad[3:], q.grad)
    assert q.grad is not None and q.grad.abs().max() > 0

    critic.zero_grad()
    fixed = p.detach()
    judge = 0.01 * loss.judge(
        passes.crops[:3], true_p(torch.arange(3)), fixed[:3], passes.crops[3:], fixed[3:]
    )
    judge.backward()
    torch.testing.assert_close(parts["judge"], judge.detach())
    for name, weight in critic.named_parameters():
        torch.testing.assert_close(got[name], weight.grad)


def test_frozen_thaws_also_after_an_error_and_leaves_frozen_parts_alone(small_critic):
    critic = small_critic()
    first = next(critic.parameters()).requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(critic):
        assert not any(w.requires_grad for w in critic.parameters())
        raise RuntimeError
    assert [w is first for w in critic.parameters()] == [
        not w.requires_grad for w in critic.parameters()
    ]


def test_it_needs_labelled_and_unlabelled_pictures(small_critic):
    head, model, _ = people()
    loss = DaslLoss(head, only(critic=0.01, reg=1.0), small_critic()).eval()
    _, passes, targets = batch(head, model, torch.arange(3), torch.arange(3, 8))
    assert set(loss(passes, targets)[1]) == {"critic", "judge", "reg"}
    for part in (targets[:1], targets[1:]):
        assert set(loss(passes, part)[1]) == {"reg"}


def test_the_critics_loss_is_that_of_its_four_kinds_of_pairs(small_critic):
    """Real ones against the mean of three kinds of fakes, however many of each there are."""
    head, _, _ = people()
    critic = small_critic().eval()
    loss = DaslLoss(head, only(critic=1.0), critic)
    known, seen = torch.arange(4), torch.arange(4, 10)
    crops, wild = pictures(known, 1), pictures(seen, 2, wild=True)
    true, said = true_p(known), true_p(seen) + 0.2
    with torch.no_grad():
        fakes = [(wild, said), (crops, true[[3, 0, 1, 2]]), (crops, true - 0.3)]
        wanted = -functional.logsigmoid(critic(crops, true)).mean()
        for pair in fakes:
            wanted -= torch.log1p(-critic(*pair).sigmoid()).mean() / 3
        got = loss.judge(crops, true, true - 0.3, wild, said)
    torch.testing.assert_close(got, wanted)


def test_the_strangers_are_other_peoples_coefficients(judging):
    """The critic's loss falls when true pairs are true and strangers strange, not the reverse."""
    ids = torch.arange(TRAINED, TRAINED + 64)
    crops, p = pictures(ids, 3), true_p(ids)
    wild = pictures(ids, 4, wild=True)
    with torch.no_grad():
        right = judging.judge(crops, p, p + 0.5, wild, p)
        swapped = judging.judge(crops, p.roll(1, 0), p + 0.5, wild, p)
    assert right < swapped


@pytest.mark.slow
def test_the_self_critic_brings_coefficients_to_the_picture(judging):
    """On pictures of the renders' look, 100 steps on this term alone, both sides learning.

    Free coefficients of 64 unlabelled pictures start 1.5 deviations off the truth.
    """
    head, model, _ = people()
    loss = copy.deepcopy(judging).train()
    wild = torch.arange(TRAINED, TRAINED + 64)
    truth, crops = true_p(wild), pictures(wild, 5)
    generator = torch.Generator().manual_seed(5)
    start = truth + 1.5 * torch.randn(truth.shape, generator=generator)
    p = start.clone().requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": loss.critic.parameters(), "lr": 3e-3}, {"params": [p], "lr": 0.05}]
    )
    for step in range(100):
        known = torch.randint(0, TRAINED, (BATCH,), generator=generator)
        labelled = true_p(known) + 0.5 * torch.randn(BATCH, head.size, generator=generator)
        passes = two_passes(
            head, torch.cat((labelled, p)), crops=torch.cat((pictures(known, step), crops))
        )
        targets = [target(model, chosen(known), "renders")]
        targets.append(target(model, chosen(wild), "found", BATCH))
        optimizer.zero_grad()
        loss(passes, targets)[0].backward()
        optimizer.step()
    before, after = (mesh_mm(model, head, x, chosen(wild)) for x in (start, p.detach()))
    assert after < 0.7 * before, (before, after)
    sizes = [head.unpack(head.raw(x)).identity.square().mean().sqrt() for x in (start, p.detach())]
    assert sizes[1] < 0.75 * sizes[0] and 0.6 < sizes[1] < 1.4, sizes
    shown = [(x - truth)[:, 9:12].norm(dim=1).mean() for x in (start, p.detach())]
    assert shown[1] < 0.85 * shown[0], shown  # what the picture shows of the identity
