"""Every number of the AFLW2000-3D protocol against a second implementation, loops and all."""

import math

import numpy as np
import pytest

from helpers.aflw2000_files import COUNT, face_labels, write_packed
from lifemask.data.aflw2000 import load_aflw2000
from lifemask.evaluation.aflw2000 import score_aflw2000
from lifemask.evaluation.predictions import Predictions

TABLE_21 = (
    *([17], [19], [21], [22], [24], [26]),
    *([36], [36, 37, 38, 39, 40, 41], [39], [42], [42, 43, 44, 45, 46, 47], [45]),
    *([2], [31], [30], [35], [14]),
    *([48], [60, 61, 62, 63, 64, 65, 66, 67], [54], [8]),
)


def distance(a, b, dims):
    return math.sqrt(sum((a[k] - b[k]) ** 2 for k in range(dims)))


def error_of(flags, guess, labels, row):
    """NME of one image in percent from the label file's own arrays (coordinates first)."""
    original = labels["pt3d_68"][row].astype(float)
    truth = labels["reannotated_pts68"][row] if flags["gt"] == "reannotated" else original
    us, vs = [float(x) for x in truth[0]], [float(y) for y in truth[1]]
    size = math.sqrt((max(us) - min(us)) * (max(vs) - min(vs)))
    if flags["gt"] == "aflw21":
        clicks = labels["pt2d_21"][row]
        errors = []
        for k, members in enumerate(TABLE_21):
            if clicks[0, k] < 0 or clicks[1, k] < 0:
                continue
            mean = [sum(guess[m][c] for m in members) / len(members) for c in range(2)]
            errors.append(distance(mean, (float(clicks[0, k]), float(clicks[1, k])), 2))
        return 100 * sum(errors) / len(errors) / size
    points = range(68) if flags["points"] == 68 else range(17, 68)
    p = [list(guess[j]) for j in points]
    q = [[float(truth[c, j]) for c in range(len(truth))] for j in points]
    if flags["dims"] == 3:
        for side in (p, q):
            w = [x[2] for x in side]
            origin = min(w) if flags["z_align"] == "min" else sum(w) / len(w)
            for x in side:
                x[2] -= origin
    return 100 * sum(map(distance, p, q, [flags["dims"]] * len(p))) / len(p) / size


def pooled(errors, yaws, pool):
    if pool == "images":
        return sum(errors) / len(errors)
    groups = [[], [], []]
    for error, yaw in zip(errors, yaws, strict=True):
        groups[0 if abs(yaw) <= 30 else 1 if abs(yaw) <= 60 else 2].append(error)
    return sum(sum(g) / len(g) for g in groups) / 3


def test_every_number_equals_the_twins(tmp_path):
    labels = face_labels(seed=5)
    write_packed(tmp_path, labels)
    data = load_aflw2000(tmp_path)
    rng = np.random.default_rng(6)
    guess = data.landmarks68 + rng.normal(0, 4, (COUNT, 68, 3)) + [1, -2, 40]
    found = np.ones(COUNT, bool)
    found[3] = False
    result = score_aflw2000(data, Predictions(data.names, found, guess, data.pose_deg))
    yaws = [math.degrees(labels["pose_para"][i][1]) for i in range(COUNT)]
    box = labels["pt3d_68"][3].astype(float)
    centre = [(box[c].max() + box[c].min()) / 2 for c in range(2)] + [0.0]
    rows = [guess[i].tolist() if found[i] else [centre] * 68 for i in range(COUNT)]
    scored = [n for n in result["numbers"] if n["metric"] == "nme_percent"]
    assert len(scored) == 15
    for entry in scored:
        errors = [error_of(entry["flags"], rows[i], labels, i) for i in range(COUNT)]
        expected = pooled(errors, yaws, entry["flags"]["pool"])
        assert entry["value"] == pytest.approx(expected, abs=1e-4), entry["flags"]
        assert entry["flags"]["misses"] == 1
