"""2DASL learns: eight faces by heart, and of many enough to beat the mean face on others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import dasl_faces as toy
from helpers.small_generator import small_generator
from lifemask.data.augment import NO_AUGMENTATION
from lifemask.data.synthetic import write_header, write_shard
from lifemask.facemodel import load_face_model
from lifemask.methods.dasl import DaslConfig
from lifemask.training.dasl import run_training
from lifemask.training.dasl_data import DaslCorpus, FaceSet, crop_labels, load_dasl_corpus
from lifemask.training.dasl_evaluation import evaluate, predictions
from lifemask.training.dasl_recipes import smoke
from lifemask.training.recipes import OptimConfig
from lifemask.training.trainable import loop_config

pytest.importorskip("lightning.fabric")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
NAME = "renders-open"


def learned(model, faces, run, steps, batch, empty=0.3):
    """The smoke recipe's network after stage 1 on pictures without augmentation."""
    optim = OptimConfig(steps=steps, batch=batch, peak_rate=3e-3, warmup=10, ema=0.98, clip=1.0)
    recipe = replace(smoke(), optim=optim, stage2=False, net=DaslConfig("tiny", 48), threads=0)
    batches = replace(recipe.batches, augment=NO_AUGMENTATION, empty=empty)
    recipe = replace(recipe, batches=batches, evaluate_every=0, save_every=0)
    config = loop_config(recipe, run, progress=False)
    return run_training(recipe, DaslCorpus([faces], {}, {NAME: faces}), model, config)


def rendered(model, folder):
    """Eight little renders of our head with noise for skin and sky."""
    generator = small_generator(model, size=60, shard_size=8, camera="orthographic")
    folder.mkdir()
    write_header(generator.config, folder, model, 8)
    write_shard(generator, folder, 0, 8)
    return load_dasl_corpus("open", None, [folder], None, 0, detect=False, model=model).labelled[0]


def baseline(model, faces):
    """Mean head at its mean place: mean distance in px at 120 px, shape in mm, angle in degrees."""
    labels = crop_labels(faces)
    with torch.no_grad():
        shapes = model.landmarks(model(labels.identity, labels.expression), faces.crops.convention)
    shapes = shapes - shapes.mean(1, keepdim=True)
    points = torch.from_numpy(faces.crops.points[..., :2]) / (faces.crops.nominal_side_px / 120)
    turn = torch.linalg.svd(labels.rotation.mean(0))
    middle = turn.U @ turn.Vh
    cosine = ((labels.rotation * middle).sum((1, 2)) - 1) / 2
    return {
        "px": float((points - points.mean(0)).norm(dim=-1).mean()),
        "shape_mm": float((shapes - shapes.mean(0)).norm(dim=-1).mean()),
        "angle_deg": float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean()),
    }


def pixels(network, faces, source="detector"):
    """Mean distance of the landmarks in px of a crop of 120 px."""
    ((_, found, wanted),) = predictions(network, faces, (source,))
    return float(np.linalg.norm(found.points[..., :2] - wanted[..., :2], axis=-1).mean()) * 60


@pytest.mark.parametrize("kind", ["dots", "renders"])
def test_eight_faces_are_learned_to_a_pixel_and_a_millimetre(tmp_path, kind):
    model = load_face_model()
    faces = toy.faces_of(model, 8) if kind == "dots" else rendered(model, tmp_path / "cache")
    network = learned(model, faces, tmp_path / "run", 700, 8, empty=0.5)
    mean = baseline(model, faces)
    for source in ("none", "self", "oracle"):
        assert pixels(network, faces, source) < min(1.0, 0.2 * mean["px"])
    metrics = evaluate(network, {NAME: faces}, "self")
    assert metrics[f"{NAME}_shape_mm"] < min(1.0, 0.5 * mean["shape_mm"])
    assert metrics[f"{NAME}_angle_deg"] < min(3.0, 0.2 * mean["angle_deg"])


@pytest.fixture(scope="module")
def pupil(tmp_path_factory):
    """A network that has seen 400 dotted heads of the mask model."""
    model = toy.mask_model()
    faces = toy.faces_of(model, 400, yaw_deg=25)
    return model, learned(model, faces, tmp_path_factory.mktemp("run"), 300, 32)


@pytest.fixture(scope="module")
def strangers():
    return toy.faces_of(toy.mask_model(), 64, seed=100, yaw_deg=25)


def permuted(faces: FaceSet, images: bool, maps: bool) -> FaceSet:
    """Labels as they are, pictures or maps of the next face."""
    order = np.roll(np.arange(len(faces)), 1)
    crops, detected = faces.crops, faces.detected
    assert detected is not None
    if images:
        crops = replace(crops, images=(crops.images[0][order],))
    return FaceSet(crops, faces.labels, detected.subset(order) if maps else detected)


def test_strangers_beat_the_mean_face_in_shape_and_pose(pupil, strangers):
    model, network = pupil
    mean = baseline(model, strangers)
    metrics = evaluate(network, {NAME: strangers})
    assert pixels(network, strangers) < 0.5 * mean["px"]
    assert metrics[f"{NAME}_shape_mm"] < 0.7 * mean["shape_mm"]
    assert metrics[f"{NAME}_angle_deg"] < 0.5 * mean["angle_deg"]


def test_the_map_helps(pupil, strangers):
    _, network = pupil
    none, found, oracle = (pixels(network, strangers, s) for s in ("none", "detector", "oracle"))
    assert oracle <= found < 0.9 * none


def test_permuted_inputs_leave_nothing_better_than_the_mean_face(pupil, strangers):
    model, network = pupil
    mean = baseline(model, strangers)
    both = permuted(strangers, True, True)
    right = pixels(network, strangers)
    assert pixels(network, both) > 0.9 * mean["px"] > 2 * right
    metrics = evaluate(network, {NAME: both})
    for name in ("shape_mm", "angle_deg"):
        assert metrics[f"{NAME}_{name}"] > 0.9 * mean[name]
    assert pixels(network, permuted(strangers, False, True)) > 1.3 * right
    assert pixels(network, permuted(strangers, True, False)) > 1.3 * right
