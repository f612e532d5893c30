"""PGN learns: eight faces by heart, and of many enough to beat the mean face on others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import pgn_faces as toy
from helpers.dasl_faces import mask_model
from helpers.small_generator import small_generator
from lifemask.data.augment import NO_AUGMENTATION
from lifemask.data.synthetic import write_cache
from lifemask.facemodel import load_face_model
from lifemask.training.dasl_data import FaceSet, crop_labels
from lifemask.training.pgn import run_training
from lifemask.training.pgn_data import PgnCorpus, PgnFaces, load_renders
from lifemask.training.pgn_evaluation import evaluate, predictions
from lifemask.training.pgn_recipes import smoke
from lifemask.training.recipes import OptimConfig
from lifemask.training.trainable import loop_config

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
NAME = "renders-open"


def learned(model, faces, run, steps, batch, param=0.1):
    """The smoke recipe's network, wider heads, after training on pictures without augmentation."""
    optim = OptimConfig(steps=steps, batch=batch, peak_rate=3e-3, warmup=10, ema=0.98, clip=1.0)
    recipe = replace(smoke(), optim=optim, threads=0, evaluate_every=0, save_every=0)
    batches = replace(recipe.batches, augment=NO_AUGMENTATION)
    pairs = replace(recipe.loss.pairs, photometric=0.0, flow=0.0, semantic=0.0)
    recipe = replace(recipe, batches=batches, loss=replace(recipe.loss, pairs=pairs, param=param))
    recipe = replace(recipe, net=replace(recipe.net, hidden=128))
    config = loop_config(recipe, run, progress=False)
    return run_training(recipe, PgnCorpus([faces], {}, {NAME: faces}), model, config)


def rendered(model, folder):
    """Eight little renders of four people with noise for skin and sky."""
    generator = small_generator(model, size=60, shard_size=8, camera="orthographic", frames=2)
    write_cache(generator, folder, 8)
    return load_renders(folder, model, slice(None))


def baseline(model, faces):
    """Mean head at its mean place: mean distance in px at 120 px, shape in mm, angle in degrees."""
    labels = crop_labels(faces.faces)
    with torch.no_grad():
        shapes = model.landmarks(model(labels.identity, labels.expression), faces.crops.convention)
    shapes = shapes - shapes.mean(1, keepdim=True)
    points = torch.from_numpy(faces.crops.points[..., :2]) / (faces.crops.nominal_side_px / 120)
    turn = torch.linalg.svd(labels.rotation.mean(0))
    cosine = ((labels.rotation * (turn.U @ turn.Vh)).sum((1, 2)) - 1) / 2
    return {
        "px": float((points - points.mean(0)).norm(dim=-1).mean()),
        "shape_mm": float((shapes - shapes.mean(0)).norm(dim=-1).mean()),
        "angle_deg": float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()),
    }


def pixels(network, faces, name="points"):
    """Mean distance of posed landmarks, or of the map's, in px of a crop of 120 px."""
    found, wanted = predictions(network, faces)
    return (
        float(np.linalg.norm(getattr(found, name)[..., :2] - wanted[..., :2], axis=-1).mean()) * 60
    )


@pytest.mark.parametrize("kind", ["dots", "renders"])
def test_eight_faces_are_learned_to_a_pixel_and_a_millimetre(tmp_path, kind):
    model = load_face_model()
    faces = toy.faces_of(model, 8, 1) if kind == "dots" else rendered(model, tmp_path / "cache")
    network = learned(model, faces, tmp_path / "run", 700, 8)
    mean = baseline(model, faces)
    metrics = evaluate(network, {NAME: faces})
    assert pixels(network, faces) < min(1.0, 0.2 * mean["px"])
    assert pixels(network, faces, "on_map") < 0.2 * mean["px"]  # a decoder of 16 channels
    assert metrics[f"{NAME}_shape_mm"] < min(1.0, 0.5 * mean["shape_mm"])
    assert metrics[f"{NAME}_angle_deg"] < min(3.0, 0.2 * mean["angle_deg"])


@pytest.fixture(scope="module")
def pupil(tmp_path_factory):
    """A network that has seen 600 dotted people of the mask model, twice each."""
    model = mask_model()
    faces = toy.faces_of(model, 600, 2, yaw_deg=25)
    return model, learned(model, faces, tmp_path_factory.mktemp("run"), 400, 32, param=1.0)


@pytest.fixture(scope="module")
def strangers():
    return toy.faces_of(mask_model(), 32, 2, seed=100, yaw_deg=25)


def permuted(faces: PgnFaces) -> PgnFaces:
    """Labels as they are, pictures of somebody else."""
    order = np.roll(np.arange(len(faces)), 3)
    crops = replace(faces.crops, images=(faces.crops.images[0][order],))
    return replace(faces, faces=FaceSet(crops, faces.faces.labels))


def test_strangers_beat_the_mean_face_in_shape_and_pose(pupil, strangers):
    model, network = pupil
    mean = baseline(model, strangers)
    metrics = evaluate(network, {NAME: strangers})
    assert pixels(network, strangers) < 0.5 * mean["px"]
    assert metrics[f"{NAME}_shape_mm"] < 0.8 * mean["shape_mm"]
    assert metrics[f"{NAME}_angle_deg"] < 0.5 * mean["angle_deg"]
    assert metrics[f"{NAME}_two_mm"] < metrics[f"{NAME}_shape_mm"], "two photos say more"
    assert metrics[f"{NAME}_ratio"] > 1


def test_permuted_inputs_leave_nothing_better_than_the_mean_face(pupil, strangers):
    model, network = pupil
    mean = baseline(model, strangers)
    mixed = permuted(strangers)
    right = pixels(network, strangers)
    for name in ("points", "on_map"):
        assert pixels(network, mixed, name) > 0.9 * mean["px"] > 2 * right
    metrics = evaluate(network, {NAME: mixed})
    for name in ("shape_mm", "angle_deg"):
        assert metrics[f"{NAME}_{name}"] > 0.9 * mean[name]
