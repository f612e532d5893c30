"""Training of the inpainting network: holes, terms, a run, resume, export."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.hole_pictures import pictures
from lifemask.assets import UserError
from lifemask.data._pairs_inpaint import load_inpainter
from lifemask.data.base import CropSet
from lifemask.data.region_augment import NO_REGION_AUGMENTATION
from lifemask.nn.inpaint_net import InpaintExport, InpaintNet, InpaintNetConfig, smooth_fill
from lifemask.nn.shipped import OnnxNetwork
from lifemask.training import inpaint as training
from lifemask.training.inpaint import (
    TRAINABLE,
    InpaintLoss,
    evaluate,
    gradient_error,
    harmonic,
    run_training,
    score,
)
from lifemask.training.inpaint_batches import (
    BatchMaker,
    Corpus,
    InpaintBatch,
    held_out_rows,
    joined,
    load_corpus,
    with_oval,
)
from lifemask.training.inpaint_export import main as export
from lifemask.training.inpaint_masks import draw_hole, gap_beside, moved
from lifemask.training.inpaint_recipes import HoleConfig, InpaintLossConfig, smoke
from lifemask.training.overrides import with_overrides
from lifemask.training.trainable import load_trainable, loop_config

SIZE = 32


def toy_recipe(steps=20, **optim):
    recipe = replace(smoke(), augment=NO_REGION_AUGMENTATION, evaluated=16)
    return replace(recipe, optim=replace(recipe.optim, **{"steps": steps, **optim}))


def toy_corpus(count=32) -> Corpus:
    return Corpus({"renders": pictures(count, SIZE)}, {"renders": pictures(16, SIZE, 9)})


def train_toy(recipe, folder, **changes) -> InpaintNet:
    config = replace(loop_config(recipe, folder), progress=False, evaluate_every=0, **changes)
    return run_training(recipe, toy_corpus(), config)


def oval(size=64, radius=0.3):
    y, x = np.mgrid[:size, :size] / size - 0.5
    return x**2 / radius**2 + y**2 / (1.3 * radius) ** 2 < 1


def test_it_is_listed_and_every_switch_is_one():
    assert load_trainable("inpaint") is TRAINABLE
    for size, create in TRAINABLE.recipes.items():
        assert create("open").name == size
        assert InpaintNet(create("open").net).config.size in (32, 128)
    recipe = TRAINABLE.recipes["cpu"]("research")
    for switch in TRAINABLE.switches:
        assert with_overrides(recipe, switch.overrides) != recipe, switch.name


def test_holes_are_apart_from_what_is_known_and_from_the_face():
    face, outside = oval(), np.zeros((64, 64), bool)
    outside[:, :5] = True
    shares = []
    for seed in range(60):
        hole, known = draw_hole(np.random.default_rng(seed), face, outside, HoleConfig())
        assert hole.any() and known.mean() >= 0.2 and not (hole & known).any()
        assert not (hole | known)[:, :5].any()
        shares.append((hole & face).any())
    assert 0 < np.mean(shares) < 0.5, "only some of the strokes cross the face"
    again = draw_hole(np.random.default_rng(59), face, outside, HoleConfig())
    assert np.array_equal(again[0], hole) and np.array_equal(again[1], known)


def test_gaps_lie_beside_the_face_and_are_thin():
    face = oval()
    for seed in range(30):
        hole, hidden = gap_beside(np.random.default_rng(seed), face, HoleConfig())
        assert (hidden >= face).all() and not (hole & hidden).any()
        near = gap_beside(np.random.default_rng(seed), face, HoleConfig(shift=0.0, scale=0.0))[0]
        assert near.sum() < 0.5 * face.sum()


def test_a_moved_mask():
    square = np.zeros((40, 40), bool)
    square[10:20, 10:20] = True
    assert np.array_equal(moved(square, np.ones(2), 0.0, np.zeros(2)), square)
    shifted = moved(square, np.ones(2), 0.0, np.array([5, -3]))
    assert shifted[7:17, 15:25].all() and shifted.sum() == 100
    wide = moved(square, np.array([2, 1]), 0.0, np.zeros(2))
    assert abs(wide.sum() - 200) <= 20 and wide.any(1).sum() == 10
    turned = moved(wide, np.ones(2), np.pi / 2, np.zeros(2))
    assert turned.any(0).sum() == wide.any(1).sum()


def test_shares_make_up_the_batch_and_pictures_stay_whole():
    recipe = toy_recipe(batch=4)
    maker = BatchMaker(toy_corpus().training, recipe)
    whole, parts = maker(3), joined([maker(3, share, 2) for share in range(2)])
    for name in ("picture", "known", "hole"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    assert whole.picture.shape == (4, 3, SIZE, SIZE) and not torch.equal(whole.hole, maker(4).hole)
    assert 0 <= whole.picture.min() and whole.picture.max() <= 1
    assert set(whole.hole.unique().tolist()) == {0.0, 1.0}


def test_photos_have_an_oval_face_and_their_share():
    images = np.full((6, 24, 24, 3), 200, np.uint8)
    nothing = np.zeros((6, 1, 2), np.float32)
    crops = CropSet(
        "aflw21", "aflw21", (images,), nothing, nothing[..., 0] > 0, 24.0, nothing[:, 0, 0],
        nothing[:, 0, 0],
    )  # fmt: skip
    photos = with_oval(crops)
    assert photos.regions[0].shape == (6, 24, 24) and photos.view_side_px == 24
    assert photos.regions[0][0, 12, 12] == 4 and photos.regions[0][0, 0, 0] == 8
    sets = {"renders": pictures(8, SIZE), "photos": photos}
    recipe = replace(toy_recipe(batch=24), photos=0.5)
    even = (BatchMaker(sets, recipe)(0).picture.flatten(1).std(1) < 1e-6).float().mean()
    assert 0.2 < even < 0.8


def one_batch(count=6) -> InpaintBatch:
    return joined(held_out_rows(replace(toy_recipe(), evaluated=count), pictures(count, SIZE, 3)))


@pytest.mark.parametrize("term", ["hole", "known", "gradient"])
def test_each_term_alone_lowers_what_it_guards(term):
    off = {"hole": 0.0, "known": 0.0, "gradient": 0.0}
    criterion, batch = InpaintLoss(InpaintLossConfig(**(off | {term: 1.0}))), one_batch()
    said = torch.rand(batch.picture.shape, generator=torch.Generator().manual_seed(0))
    said.requires_grad_()

    def guarded() -> float:
        with torch.no_grad():
            away = said - batch.picture
            if term == "gradient":
                steps = (away * batch.hole).diff(dim=-1)[..., :, :] * batch.hole[..., 1:]
                return float((steps * (batch.known + batch.hole)[..., :-1]).square().mean())
            return float((away * getattr(batch, term)).square().mean())

    before, optimiser = guarded(), torch.optim.Adam([said], 0.02)
    for _ in range(100):
        optimiser.zero_grad()
        criterion(said, batch)[0].backward()
        optimiser.step()
    assert guarded() < 0.1 * before


@pytest.mark.parametrize("term", ["hole", "known", "gradient"])
def test_each_switch_changes_the_total(term):
    batch, said = one_batch(), torch.full((6, 3, SIZE, SIZE), 0.5)
    whole = InpaintLoss(InpaintLossConfig())(said, batch)[0]
    without = InpaintLoss(replace(InpaintLossConfig(), **{term: 0.0}))(said, batch)[0]
    assert without < whole


def test_the_perceptual_term_sees_the_hole_alone():
    from types import SimpleNamespace

    def embed(picture):
        return SimpleNamespace(style=picture)

    batch = one_batch()
    criterion = InpaintLoss(InpaintLossConfig(0, 0, 0, 2.0), embed)  # pyright: ignore
    outside = batch.picture + 0.3 * (1 - batch.hole)
    assert float(criterion(outside, batch)[0]) == 0
    inside = batch.picture + (0.5 - batch.picture) * batch.hole
    wanted = 2 * (inside - batch.picture).abs().mean()
    torch.testing.assert_close(criterion(inside, batch)[0], wanted)
    assert InpaintLoss(InpaintLossConfig(), embed).embed is None  # pyright: ignore


def test_gradient_error_counts_seams_and_not_hidden_neighbours():
    known, hole = torch.ones(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    hole[..., 2:4] = 1
    known[..., 2:4] = 0
    off = 0.5 * hole.expand(1, 3, 4, 6)
    # across: two seams of 0.5 and one step of 0 in the hole, in each of four rows;
    # down: six steps of 0 in the hole
    torch.testing.assert_close(gradient_error(off, known, hole), torch.tensor(4.0 / 18))
    known[..., 4:] = 0
    torch.testing.assert_close(gradient_error(off, known, hole), torch.tensor(2.0 / 14))


def test_the_smoke_recipe_lowers_its_loss(tmp_path):
    recipe = toy_recipe(100)
    rows = held_out_rows(recipe, toy_corpus().training["renders"])
    batch = joined(rows)

    def loss(network) -> float:
        with torch.no_grad():
            said = network(batch.picture * batch.known, batch.known, batch.hole)
        return float(InpaintLoss(recipe.loss)(said, batch)[0])

    torch.manual_seed(recipe.seed)
    before = loss(InpaintNet(recipe.net))
    network = train_toy(recipe, tmp_path)
    assert loss(network) < 0.97 * before
    metrics = evaluate(network, {"renders": rows})
    assert metrics["error"] == metrics["renders/error"] > 0
    assert {"renders/harmonic_error", "renders/harmonic_edges", "edges"} <= metrics.keys()


@pytest.mark.slow
def test_a_briefly_trained_network_beats_laplaces_equation_in_wide_holes(tmp_path):
    """On pictures it has not seen: smooth ones with edges and stripes, holes up to a third wide."""
    recipe = replace(
        toy_recipe(300, batch=16, peak_rate=4e-3, warmup=40, ema=0.97),
        net=InpaintNetConfig(SIZE, (16, 32), (2, 4)),
        holes=HoleConfig(gap=0.3, widest=0.3),
        evaluated=48,
    )
    corpus = Corpus({"renders": pictures(512, SIZE)}, {"renders": pictures(48, SIZE, 9)})
    config = replace(loop_config(recipe, tmp_path), progress=False, evaluate_every=0)
    network = run_training(recipe, corpus, config)
    rows = held_out_rows(recipe, corpus.held_out["renders"])
    wide = [row for row in rows if widest(row.hole[0, 0].numpy() > 0) > 3]
    assert len(wide) > 12
    torch.manual_seed(recipe.seed)
    untrained = InpaintNet(recipe.net)
    for some in (rows, wide):
        found = score(network, some)
        assert found["error"] < 0.95 * score(untrained, some)["error"]
        assert found["error"] < 0.9 * found["harmonic_error"]
        assert found["edges"] < 0.9 * found["harmonic_edges"]


def widest(hole: np.ndarray) -> float:
    """Largest distance of a pixel of a hole from what is beside it, px."""
    from scipy.ndimage import distance_transform_edt

    return float(np.asarray(distance_transform_edt(hole)).max())


def test_an_interrupted_run_ends_the_same(tmp_path):
    whole = train_toy(toy_recipe(6), tmp_path / "a").state_dict()
    train_toy(toy_recipe(6), tmp_path / "b", stop_after=4, save_every=3)
    again = train_toy(toy_recipe(6), tmp_path / "b", save_every=3).state_dict()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_scores_are_means_over_pictures():
    rows = held_out_rows(toy_recipe(), pictures(4, SIZE, 5))
    network = InpaintNet(toy_recipe().net)
    network.trust.data[0] = -99.0  # the smooth fill alone
    found = score(network, rows)
    relax = network.config.relax
    smooth = [smooth_fill(r.picture, r.known, r.hole, relax) for r in rows]
    own = np.mean([training.errors(s, r) for s, r in zip(smooth, rows, strict=True)], 0)
    other = np.mean([training.errors(harmonic(r), r) for r in rows], 0)
    names = ("error", "edges", "harmonic_error", "harmonic_edges")
    assert [found[n] for n in names] == pytest.approx([*own, *other], rel=1e-4)
    assert training.errors(rows[0].picture, rows[0]) == (0.0, 0.0)
    hole = rows[1].hole > 0
    off = ((smooth[1] - rows[1].picture).abs() * 255)[hole.expand(1, 3, -1, -1)].mean()
    assert training.errors(smooth[1], rows[1])[0] == pytest.approx(float(off), rel=1e-4)


def test_data_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "header.json").write_text(json.dumps({"licence": "research only"}))
    with pytest.raises(UserError):
        load_corpus(smoke(), [tmp_path])
    with pytest.raises(UserError, match=r"--data with aflw21/, or --set photos=0"):
        load_corpus(smoke("research"), [])


def test_a_run_becomes_weights_that_fill(tmp_path, monkeypatch):
    recipe = toy_recipe(3)
    network = train_toy(recipe, tmp_path / "run")
    weights = tmp_path / "weights"
    export([f"--run={tmp_path / 'run'}", "--name=inpaint-open", "--family=open", "--commit=none",
            f"--folder={weights}"])  # fmt: skip
    card = json.loads((weights / "inpaint-open.json").read_text())
    assert card["tag"] == "open" and card["steps"] == 3 and card["kind"] == "inpaint"
    assert card["network"] == json.loads(json.dumps(asdict(recipe.net)))
    batch = one_batch(2)
    given = (batch.picture * batch.known, batch.known, batch.hole)
    with torch.no_grad():
        wanted = InpaintExport(network)(*given)
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(weights))
    graph = OnnxNetwork("inpaint-open.onnx", ("picture", "known", "hole"))
    found = torch.from_numpy(graph(*(x.numpy() for x in given)))
    torch.testing.assert_close(found, wanted, atol=5e-3, rtol=0)
    fill = load_inpainter(weights / "inpaint-open.safetensors")
    plain = batch.picture[0].permute(1, 2, 0).double().numpy()
    filled = fill(plain, batch.hole[0, 0].numpy() > 0, batch.known[0, 0].numpy() > 0)
    hole = batch.hole[0, 0].numpy() > 0
    off = filled[hole] - found[0].permute(1, 2, 0).numpy()[hole]
    assert np.abs(off).max() < 1e-4


def test_the_command_line_names_its_data(tmp_path: Path):
    parser = argparse.ArgumentParser()
    TRAINABLE.add_options(parser)
    options = parser.parse_args(["--cache", str(tmp_path), "--data", str(tmp_path)])
    with pytest.raises(UserError):
        TRAINABLE.run(smoke(), options, loop_config(smoke(), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
