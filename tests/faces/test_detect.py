"""The detector: decoder, suppression, the ONNX signature, and a real portrait."""

import numpy as np
import pytest
import torch

from lifemask.faces import detect
from lifemask.faces.detect import DetectorConfig, load_detector


@pytest.fixture(scope="module")
def detector():
    return load_detector(DetectorConfig(threads=1))


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()


def iou(a, b) -> float:
    return float(detect.overlaps(np.asarray(a), np.asarray([b]))[0])


ASTRONAUT_BOX = (179, 56, 269, 175)  # hair line to chin, ear to ear


def test_finds_the_astronaut(detector, portrait):
    faces = detector(portrait)
    assert len(faces) == 1 and faces[0].score > 0.7
    assert iou(faces[0].box, ASTRONAUT_BOX) > 0.8
    left_eye, right_eye, nose, left_mouth, right_mouth = faces[0].points5
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]


def test_scale_and_shift_move_the_box(detector, portrait):
    expected = np.asarray(detector(portrait)[0].box)
    large = np.kron(portrait, np.ones((3, 3, 1), np.uint8))
    np.testing.assert_allclose(
        (np.asarray(detector(large)[0].box) + 0.5) / 3 - 0.5, expected, atol=2
    )
    shifted = np.pad(portrait, ((0, 0), (100, 0), (0, 0)), mode="edge")
    moved = np.asarray(detector(shifted)[0].box) - [100, 0, 100, 0]
    assert iou(moved, expected) > 0.85


def test_mirrored_photo_gives_mirrored_points(detector, portrait):
    face, mirrored = detector(portrait)[0], detector(portrait[:, ::-1].copy())[0]
    points = mirrored.points5[[1, 0, 2, 4, 3]] * torch.tensor([-1.0, 1.0]) + torch.tensor(
        [511.0, 0]
    )
    torch.testing.assert_close(points, face.points5, atol=3.0, rtol=0)


def test_small_face_is_found_by_the_second_pass(detector, portrait):
    canvas = np.full((2400, 3200, 3), 120, np.uint8)
    canvas[1000:1512, 500:1012] = portrait
    small = canvas[::2, ::2].copy()  # a face of 45 px in 1600 x 1200, 12 px in the first pass
    first_only = load_detector(DetectorConfig(long_sides_px=(200,), frame=0, threads=1))
    assert first_only(small) == []
    assert iou(detector(small)[0].box, np.add(ASTRONAUT_BOX, [500, 1000, 500, 1000]) / 2) > 0.6


def test_nothing_is_found_in_noise_and_in_flat_pictures(detector):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    assert detector(noise) == [] and detector(np.zeros((40, 500, 3), np.uint8)) == []


def test_decoder_on_one_hand_made_cell():
    heat = np.zeros((1, 8, 10), np.float32)
    heat[0, 3, 6] = 0.9
    log_size = np.zeros((2, 8, 10), np.float32)
    log_size[:, 3, 6] = np.log([5, 3])  # height 20 px, width 12 px
    offset = np.zeros((2, 8, 10), np.float32)
    offset[:, 3, 6] = [0.25, -0.25]
    points = np.zeros((10, 8, 10), np.float32)
    points[:, 3, 6] = np.repeat([0.5], 10)
    boxes, scores, found = detect.decode(heat, log_size, offset, points, 0.5)
    u, v = (6 - 0.25 + 0.5) * 4, (3 + 0.25 + 0.5) * 4
    np.testing.assert_allclose(boxes, [[u - 6, v - 10, u + 6, v + 10]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.9])
    np.testing.assert_allclose(found, np.full((1, 5, 2), [u, v]), rtol=1e-6)


def test_suppression_agrees_with_a_naive_twin():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 50, (40, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (40, 2))], axis=1)
    scores = rng.uniform(size=40)
    kept: list[int] = []
    for i in sorted(range(40), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[k]) <= 0.3 for k in kept):
            kept.append(i)
    assert detect.suppress(boxes, scores, 0.3).tolist() == kept


def test_rewritten_signature_is_what_the_onnx_package_reads():
    onnx = pytest.importorskip("onnx")
    from lifemask.assets import package_file

    model = package_file("centerface").read_bytes()
    changed = detect.free_input_size(model, detect.INPUT_NAME, detect.OUTPUT_NAMES)
    graph = onnx.load_model_from_string(changed).graph
    assert [i.name for i in graph.input] == [detect.INPUT_NAME]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [0, 3, 0, 0]
    assert tuple(o.name for o in graph.output) == detect.OUTPUT_NAMES
    original = onnx.load_model_from_string(model).graph
    assert graph.node == original.node and graph.initializer == original.initializer
