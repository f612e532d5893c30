"""Training the re-renderable texture on balls: exact resume, stages, export, switches."""

import json
import os
import signal
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import retexture_faces as toy
from helpers.retexture_cache import HELD, store
from lifemask.apps.cli import main
from lifemask.assets import AssetError, UserError, weights_folder
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import orthographic_camera
from lifemask.graphics.lighting import linear_to_srgb
from lifemask.methods.retexture import (
    FinishConfig,
    RetexturePredictConfig,
    config_from_dict,
    create_retexture,
    load_retexturer,
)
from lifemask.training import retexture_export
from lifemask.training._retexture_cache import HeadRecord
from lifemask.training.ablate import create_plan, plan_cells
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.recipes import Family
from lifemask.training.retexture import (
    TRAINABLE,
    create_stages,
    run_training,
    start_with,
    with_truth_of,
)
from lifemask.training.retexture_batches import load_corpus
from lifemask.training.retexture_evaluation import evaluate
from lifemask.training.retexture_recipes import RETEXTURE, smoke
from lifemask.training.run import chosen_recipe, create_parser, train_command
from lifemask.training.stop import Interrupted
from lifemask.training.trainable import load_trainable, loop_config
from lifemask.types import Geometry
from training.test_loop import launched

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CHECKPOINT = "checkpoint.safetensors"
SIZE, LIGHTS = toy.SIZE, 2
ADVERSARIES = {"uv_gan", "uv_critic", "img_gan", "img_critic"}
ALONE = {
    "photo", "grad", "reg_detail", "symmetry", "chroma", "reg_light", "white", "light_tv", "code",
    "albedo_sup", "prior_sup", "light_sup",
}  # fmt: skip


def ball_records(count: int, seed: int, photos: bool = False) -> list[HeadRecord]:
    """Balls with skins and lights of their own, one side hidden."""
    visible = (toy.axes()[0] < 0.3).float()
    skins = toy.skins(count, seed)
    pictures = [
        toy.faces(count, seed, albedo=skins, light=toy.lights(count, seed + k), visible=visible)
        for k in range(1 if photos else LIGHTS)
    ]
    records = []
    for row in range(count):
        first = pictures[0]
        x, y = toy.axes()
        known = 0.0 if photos else 1.0
        records.append(
            HeadRecord(
                photo=np.stack([
                    (p.photo[row] * 255).round().byte().numpy() for p in pictures
                ]),
                light=np.stack([known * p.light[row].numpy() for p in pictures]),
                points=torch.stack((x, -y)),
                places=first.places[row],
                visible=first.seen.visible[row, 0],
                mask=first.mask[row, 0],
                normals=first.seen.normals[row],
                albedo=known * linear_to_srgb(first.albedo[row]),
                truth=known * first.truth[row, 0],
                person=row,
                tone=float("nan") if photos else 0.3,
                yaw_deg=0.0,
            )
        )  # fmt: skip
    return records


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Caches of balls: to train on, photos, held out."""
    folder = tmp_path_factory.mktemp("caches")
    store(folder / "renders", ball_records(4, 1), size=SIZE)
    store(folder / "photos", ball_records(2, 50, photos=True), size=SIZE)
    store(folder / "held", ball_records(2, 90), size=SIZE, **HELD)
    store(folder / "held-photos", ball_records(2, 95, photos=True), size=SIZE, **HELD)
    return folder


def toy_recipe(steps=4, family: Family = "open", **changes):
    """The smoke recipe, a checkpoint after every other step."""
    recipe = replace(smoke(family), evaluate_every=0, save_every=2, threads=0)
    recipe = replace(recipe, optim=replace(recipe.optim, steps=steps))
    return replace(recipe, **changes)


def corpora(places, family="open"):
    names = ("renders", "photos") if family == "research" else ("renders",)
    held = ("held", "held-photos") if family == "research" else ("held",)
    return (
        load_corpus([places / n for n in names], SIZE, family),
        load_corpus([places / n for n in held], SIZE, family, held_out=True),
    )


def trained(places, run, recipe=None, start_from="", **loop):
    recipe = recipe or toy_recipe()
    config = loop_config(recipe, run, progress=False, **loop)
    torch.manual_seed(77)  # a run must not depend on what happened before it
    model = load_face_model()
    return run_training(recipe, *corpora(places, recipe.family), model, config, start_from)


def parts_of(run):
    """Names of all parts of the loss that were written."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name for row in rows if "loss" in row for name in row}


def same_state(a, b):
    """Weights, averages and the optimiser's state are equal to the bit; dates may differ."""
    one, other = (load_file(run / CHECKPOINT) for run in (a, b))
    return one.keys() == other.keys() and all(torch.equal(other[k], v) for k, v in one.items())


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole")
    trained(places, run)
    return run


# ------------------------------------------------------------------------------- runs


def test_a_run_ends_with_metrics_and_all_that_names_the_network(whole):
    state = read_state(whole / CHECKPOINT)
    assert (state["step"], state["licence"]) == (4, "open")
    names = ("albedo", "albedo_seen", "albedo_hidden", "albedo_no_gain", "hue", "prior",
             "prior_seen", "prior_hidden", "invariance", "high_pass", "photo_db")  # fmt: skip
    assert set(state["metrics"]) == set(names)
    assert all(np.isfinite(state["metrics"][name]) for name in names)
    assert config_from_dict(state["recipe"]["net"]) == smoke().net
    assert parts_of(whole) >= ALONE | ADVERSARIES
    weights = averaged_weights(whole)
    torch.manual_seed(0)
    fresh = create_retexture(smoke().net, load_face_model()).state_dict()
    assert fresh.keys() == weights.keys()
    changed = [k for k, v in fresh.items() if not torch.equal(weights[k], v)]
    assert {"look.to_light.weight", "refine.to_albedo.weight", "refine.first.0.weight"} <= {
        *changed
    }
    stored = load_file(whole / CHECKPOINT)
    assert any("uv_critic" in k for k in stored) and any("img_critic" in k for k in stored)


@pytest.mark.parametrize("steps_before", [1, 3])
def test_a_stopped_run_ends_with_the_same_bytes(places, whole, tmp_path, steps_before):
    steps = []

    def count(_):
        steps.append(1)
        if len(steps) == steps_before:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="same command goes on"):
        trained(places, tmp_path, on_step=count)
    network = trained(places, tmp_path, on_step=count)
    assert len(steps) == 4 and same_state(whole, tmp_path)
    stored = averaged_weights(tmp_path)
    assert all(torch.equal(stored[k], v) for k, v in network.state_dict().items())
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_research_sees_photos(places, tmp_path):
    recipe = toy_recipe(2, "research", stage_b=0.0)
    trained(places, tmp_path, recipe)
    metrics = read_state(tmp_path / CHECKPOINT)["metrics"]
    assert np.isfinite(metrics["photo_db_photos"])


def test_the_smallest_net_with_a_perceptual_loss(places, tmp_path):
    """The shipped landmark network is the embedder; it stays as it is."""
    trained(places, tmp_path, toy_recipe(1, perceptual="backbone"))
    assert parts_of(tmp_path) >= {"perceptual", "style"}


def test_starting_from_a_run(places, whole, tmp_path):
    one = toy_recipe(1, optim=replace(toy_recipe(1).optim, peak_rate=1e-12, weight_decay=0.0))
    network = trained(places, tmp_path / "on", one, str(whole))
    stored = averaged_weights(whole)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, stored[name], atol=1e-6, rtol=1e-5)
    wider = toy_recipe(1, net=replace(smoke().net, base=24), optim=one.optim)
    other = trained(places, tmp_path / "other", wider, str(whole)).state_dict()
    fits = [n for n, value in stored.items() if other[n].shape == value.shape]
    assert any(n.startswith("look.") for n in fits) and len(fits) < len(stored)
    for name in fits:
        torch.testing.assert_close(other[name], stored[name], atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="holds another network: no part of it fits") as caught:
        start_with(torch.nn.Linear(2, 2), stored, "there")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="train it first"):
        trained(places, tmp_path / "none", one, str(tmp_path / "nothing"))


def test_training_helps(places, tmp_path):
    """A few steps on four balls tell something of others: colour, the prior's tone, light."""
    _, held = corpora(places)
    recipe = toy_recipe(40, holes=0.2)
    recipe = replace(recipe, optim=replace(recipe.optim, batch=4, peak_rate=4e-3))
    recipe = replace(recipe, save_every=0, loss=replace(recipe.loss, gan_from=1000))
    torch.manual_seed(0)
    before = evaluate(create_retexture(recipe.net, load_face_model()).eval(), held, 10)
    after = evaluate(trained(places, tmp_path, recipe), held, 10)
    assert after["hue"] < 0.5 * before["hue"] and after["prior"] < 0.8 * before["prior"]
    assert after["albedo"] < before["albedo"]


def test_evaluation_counts_pictures(places):
    _, held = corpora(places)
    torch.manual_seed(0)
    network = create_retexture(smoke().net, load_face_model()).train()
    first, again = evaluate(network, held, 4), evaluate(network, held, 400)
    assert first == again and network.training
    fewer = evaluate(network, held, 2)
    assert fewer["albedo"] != first["albedo"]
    assert evaluate(network, held, 0) == {}


# ------------------------------------------------------------------------------- stages


def test_in_stage_b_of_open_a_share_of_the_truth_is_hidden(places):
    recipe = toy_recipe(6, stage_b=0.5, wild_share=0.5)
    recipe = replace(recipe, optim=replace(recipe.optim, batch=4))
    stages = create_stages(recipe, corpora(places)[0])
    assert stages.from_step == 3
    for step in range(6):
        batch = stages(step, 0, 1)
        known = batch.truth.flatten(1).amax(1) > 0
        assert known.tolist() == ([True] * 4 if step < 3 else [True, False] * 2)
        assert torch.equal(batch.lit > 0, known)
        hidden = ~known
        assert float(batch.albedo[hidden].abs().sum()) == 0
        assert float(batch.light[hidden].abs().sum()) == 0
        assert float(batch.photo.flatten(1).std(1).min()) > 0.01  # the photo stays


def test_in_stage_b_of_research_photos_come_and_renders_keep_their_truth(places):
    recipe = toy_recipe(4, "research", stage_b=0.5, wild_share=0.5)
    recipe = replace(recipe, optim=replace(recipe.optim, batch=4))
    stages = create_stages(recipe, corpora(places, "research")[0])
    assert stages.hidden == 0
    for step in range(4):
        known = stages(step, 0, 1).lit.sum()
        assert int(known) == (4 if step < 2 else 2)


@pytest.mark.parametrize("batch", [2, 6])
def test_processes_that_share_a_batch_of_stage_b_hide_the_same_rows(places, batch):
    """A row a process each, too: rounded by process none or all of them would be hidden."""
    recipe = toy_recipe(2, stage_b=0.0, wild_share=1 / 3)
    recipe = replace(recipe, optim=replace(recipe.optim, batch=batch))
    stages = create_stages(recipe, corpora(places)[0])
    hidden = []
    for step in range(3):
        shared = torch.cat([stages(step, share, 2).lit for share in range(2)])
        assert torch.equal(shared, stages(step, 0, 1).lit)
        hidden += (1 - shared).tolist()
    assert sum(hidden) == batch


def test_stage_b_can_be_left_out(places):
    stages = create_stages(toy_recipe(3, stage_b=1.0), corpora(places)[0])
    assert all(stages(step, 0, 1).lit.all() for step in range(3))


def test_taking_truth_away():
    batch = toy.faces(3)
    blind = with_truth_of(batch, torch.zeros(3))
    for name in ("albedo", "truth", "light", "lit"):
        assert float(getattr(blind, name).abs().sum()) == 0
    assert torch.equal(blind.photo, batch.photo) and blind.seen is batch.seen
    some = with_truth_of(batch, torch.tensor([1.0, 0.0, 1.0]))
    assert some.lit.tolist() == [1, 0, 1]
    assert torch.equal(some.albedo[::2], batch.albedo[::2]) and not some.truth[1].any()


# ------------------------------------------------------------------------------- export


@pytest.fixture(scope="module")
def shipped(whole, tmp_path_factory):
    """A weights folder with the run as retexture-open."""
    folder = tmp_path_factory.mktemp("weights")
    for file in weights_folder().iterdir():
        if not file.name.startswith("retexture-"):
            (folder / file.name).symlink_to(file.resolve())
    retexture_export.main([
        "--run", str(whole), "--name", "retexture-open", "--family", "open", "--commit", "abc",
        "--folder", str(folder), "--recipe", "lifemask train retexture --recipe smoke",
    ])  # fmt: skip
    return folder


def test_a_card_tells_what_the_weights_are(shipped):
    card = json.loads((shipped / "retexture-open.json").read_text())
    assert card["kind"] == "retexture" and card["licence"] == "Apache-2.0"
    assert config_from_dict(card["network"]) == smoke().net
    assert card["face_model"] == "lifemask" and card["steps"] == 4 and card["sources"]
    assert set(card["sha256"]) == {"retexture-open.safetensors", "retexture-open.onnx"}
    weights = load_file(shipped / "retexture-open.safetensors")
    assert all(v.dtype == torch.float16 for v in weights.values())
    assert card["parameters"] >= sum(v.numel() for k, v in weights.items() if "prior." not in k)


def geometry_of(model):
    with torch.no_grad():
        head = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    camera = orthographic_camera(torch.eye(3), 0.3, torch.tensor([48.0, 52.0]))
    return Geometry(head, model.topology.faces, camera, "lifemask")


def test_the_exported_network_dresses_heads(whole, shipped, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(shipped))
    model = load_face_model()
    dresser = load_retexturer("open", model)
    trained_net = create_retexture(smoke().net, model)
    trained_net.load_state_dict(averaged_weights(whole))
    image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    geometry = geometry_of(model)
    seen, said = dresser.explain(image, geometry)
    assert 0.3 < float(seen.visible.mean()) < 1
    with torch.no_grad():
        wanted = trained_net.eval()(seen)
    for name, value in said._asdict().items():  # half precision is all that differs
        torch.testing.assert_close(value, getattr(wanted, name), atol=0.02, rtol=0.02)
    _, again = dresser.explain(image, geometry)
    assert all(torch.equal(a, b) for a, b in zip(said, again, strict=True))


def test_a_dressed_head_is_complete(shipped, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(shipped))
    model = load_face_model()
    config = RetexturePredictConfig(finish=FinishConfig(size=128, part_size=32))
    dresser = load_retexturer("open", model, config)
    image = 0.3 + 0.4 * torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    appearance = dresser(image, geometry_of(model))
    assert appearance.albedo.shape == (3, 128, 128)
    assert appearance.albedo.isfinite().all()
    assert 0 <= float(appearance.albedo.min()) and float(appearance.albedo.max()) <= 1
    assert appearance.detail_light is not None
    assert appearance.detail_light.shape[0] == 27
    assert set(appearance.part_albedo) == {"eyes", "teeth", "tongue"}
    with pytest.raises(ValueError, match="needs the model's topology"):
        few = replace(geometry_of(model), vertices_mm=torch.zeros(4, 3))
        dresser(image, few)


@pytest.mark.parametrize("damage", ["card", "weights", "graph", "other"])
def test_damaged_files_are_told_in_one_line(shipped, damage, tmp_path, monkeypatch):
    for file in shipped.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    files = {"weights": "retexture-open.safetensors", "graph": "retexture-open.onnx"}
    name = files.get(damage, "retexture-open.json")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage in files:
        (tmp_path / name).write_bytes(b"nothing")
    else:
        card = json.loads(content)
        if damage == "card":
            card["network"]["petals"] = 3
        else:
            card["network"]["base"] = 24
        (tmp_path / name).write_text(json.dumps(card))
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError) as caught:
        load_retexturer("open", load_face_model(), engine="torch" if damage == "other" else "onnx")
    assert "\n" not in str(caught.value)


def test_families_without_weights_are_told(shipped, monkeypatch):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(shipped))
    with pytest.raises(AssetError, match="retexture-research"):
        load_retexturer("research", load_face_model())
    with pytest.raises(ValueError, match="valid: open, research"):
        load_retexturer("paper", load_face_model())  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------- by command


MIXED = {"open": (), "research": ("--precision", "bf16-mixed")}
"""Options of both families; one runs as the recipes for GPUs do."""


def words_for(places, run, *rest, family="open"):
    names = ("renders", "photos") if family == "research" else ("renders",)
    caches = [w for n in names for w in ("--cache", places / n)]
    held = ["--held-out", places / "held"]
    base = ["--recipe", "smoke", "--family", family, *caches, *held]
    return [str(word) for word in (*base, "--run", run, "--no-progress", *rest)]


@pytest.mark.parametrize("family", ["open", "research"])
def test_the_smoke_recipe_by_command(places, tmp_path, family):
    settings = ("--set", "loss.white=0.5", *MIXED[family])
    words = words_for(places, tmp_path / "run", *settings, family=family)
    with pytest.raises(SystemExit) as end:
        main(["train", "retexture", *words])
    assert not end.value.code
    state = read_state(tmp_path / "run" / CHECKPOINT)
    assert (state["step"], state["licence"]) == (5, family)
    assert state["recipe"]["loss"]["white"] == 0.5
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert parts_of(tmp_path / "run") >= ALONE | ADVERSARIES


def test_wrong_words_are_one_clear_line(places, tmp_path):
    run = tmp_path / "run"
    for words, told in (
        (("--set", "net.fill=skin"), "fill"),
        (("--set", "net.depth=3"), "depth"),
        (("--set", "loss.chromo=0"), "chroma"),
        (("--cache", str(tmp_path / "no")), "no retexture cache"),
        (("--cache", str(places / "photos")), "open family may not train"),
        (("--cache", str(places / "held")), "held out"),
        (("--held-out", str(places / "renders")), "for training"),
        (("--set", "net.size=64"), "64 does not divide"),
        (("--start-from", str(tmp_path / "nothing")), "train it first"),
        (("--family", "research"), "learns from photos"),
        (("--set", "select=beauty"), "no validation metric 'beauty'"),
    ):
        with pytest.raises(UserError, match=told) as error:
            train_command(TRAINABLE, words_for(places, run, *words))
        assert "\n" not in str(error.value)


def test_every_recipe_makes_its_network(capsys):
    assert load_trainable("retexture") is TRAINABLE
    with pytest.raises(SystemExit):
        main(["train", "--list"])
    listed = capsys.readouterr().out
    assert list(RETEXTURE) == ["smoke", "cpu", "gpu", "paper"]
    for name, recipe in RETEXTURE.items():
        assert f"| retexture | {name} |" in listed
        for family in ("open", "research"):
            made = recipe(family)
            assert (made.name, made.family) == (name, family)
            assert config_from_dict(json.loads(json.dumps(asdict(made.net)))) == made.net
            assert made.loss.gan_from < made.optim.steps and 0 < made.stage_b <= 1
    for name in ("cpu", "gpu", "paper"):  # adversaries wait for a fifth of the steps
        made = RETEXTURE[name]("open")
        assert made.loss.gan_from == pytest.approx(0.2 * made.optim.steps, rel=0.01)
    assert RETEXTURE["paper"]("open").optim.betas == (0.5, 0.999)


def test_every_switch_is_a_setting_of_the_cpu_recipe(tmp_path):
    wanted = {
        "net.light=global", "loss.reg_light=0", "loss.white=0", "loss.chroma=0",
        "loss.symmetry=0", "loss.uv_gan=0", "loss.img_gan=0", "loss.style=0",
        "loss.perceptual=0", "net.prior=constant", "net.prior=pca", "net.input.prior=false",
        "net.fill=mirror", "net.fill=zero", "net.input.visibility=false", "loss.supervise=false",
        "net.light_start=learned",
    }  # fmt: skip
    known = {override for switch in TRAINABLE.switches for override in switch.overrides}
    assert wanted <= known
    names = [switch.name for switch in TRAINABLE.switches]
    assert len(set(names)) == len(names)
    parser = create_parser(TRAINABLE)
    for family in ("open", "research"):
        options = Namespace(
            recipe="cpu", family=family, fraction=0.1, seeds=2, switch=None, keep=False,
            out=tmp_path,
        )  # fmt: skip
        data = ["--cache", "x", "--held-out", "y"]
        cells = plan_cells(create_plan("retexture", options, data))
        assert len({cell.folder for cell in cells}) == len(cells)
        plain = [*data, "--family", family]
        baseline = chosen_recipe(TRAINABLE, parser.parse_args(plain))
        for switch in TRAINABLE.switches:
            words = [w for o in switch.overrides for w in ("--set", o)]
            assert chosen_recipe(TRAINABLE, parser.parse_args([*plain, *words])) != baseline
    short = TRAINABLE.shorten(RETEXTURE["cpu"]("open"), 0.1)
    assert (short.optim.steps, short.loss.gan_from) == (600, 120)


def test_metrics_that_switches_are_judged_by_are_measured(whole):
    """A name that nobody writes would fail after hours."""
    measured = set(read_state(whole / CHECKPOINT)["metrics"])
    named = {s.metric for s in TRAINABLE.switches if s.metric}
    recipes = {RETEXTURE[name]("open").select for name in RETEXTURE}
    assert named | recipes <= measured


def train_as_one_of_two(folder: Path) -> None:
    """One process's part of a run whose critics join in its middle."""
    recipe = toy_recipe(4, "research", processes=2, stage_b=0.5)
    recipe = replace(recipe, loss=replace(recipe.loss, gan_from=2))
    result = trained(folder, folder / "run", recipe)
    sums = {k: float(v.double().sum()) for k, v in result.state_dict().items()}
    (folder / f"rank-{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(sums))


@pytest.mark.slow
def test_two_processes_hold_the_same_network(places, tmp_path):
    """No step hangs or leaves a parameter out, critics that still wait included."""
    for name in ("renders", "photos", "held", "held-photos"):
        (tmp_path / name).symlink_to(places / name)
    assert launched(tmp_path, target=train_as_one_of_two) == [0, 0]
    one, other = (json.loads((tmp_path / f"rank-{k}.json").read_text()) for k in range(2))
    assert one == other
    assert parts_of(tmp_path / "run") >= ALONE | ADVERSARIES
