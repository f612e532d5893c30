"""FaceWarehouse's layout and its binary blendshapes."""

import struct

import numpy as np
import pytest

from helpers.facescape_files import put
from helpers.scan_files import head, write_facewarehouse
from lifemask.assets import UserError
from lifemask.data.facewarehouse import load_facewarehouse, read_blendshapes


def test_people_by_number_and_unit_by_height(tmp_path):
    data = load_facewarehouse(write_facewarehouse(tmp_path))
    assert data.names == (
        "Tester_2/pose_0", "Tester_2/pose_7", "Tester_10/pose_0", "Tester_10/pose_7",
    )  # fmt: skip
    assert data.unit_mm == 100 and not data.complete and data.subjects[-1] == "Tester_10"
    vertices, faces = data.truth("Tester_2/pose_0")
    np.testing.assert_allclose(vertices, head()[0], atol=1e-2)
    np.testing.assert_array_equal(faces, head()[1])


def test_subjects_file_chooses(tmp_path):
    root = write_facewarehouse(tmp_path)
    (root / "subjects.txt").write_text("Tester_10\n")
    assert set(load_facewarehouse(root).subjects) == {"Tester_10"}
    (root / "subjects.txt").write_text("Tester_10 Tester_99\n")
    with pytest.raises(UserError, match="Tester_99"):
        load_facewarehouse(root)


def test_absent_data_and_odd_units_are_named(tmp_path):
    with pytest.raises(UserError, match="kunzhou.net"):
        load_facewarehouse(tmp_path)
    vertices, faces = head(5)
    put(tmp_path / "Tester_1" / "TrainingPose" / "pose_0.obj", vertices * 3.3, faces)
    with pytest.raises(UserError, match="a head in none of"):
        load_facewarehouse(tmp_path)


def test_blendshapes_round_trip(tmp_path):
    shapes = np.random.default_rng(0).normal(size=(4, 7, 3)).astype("<f4")
    path = tmp_path / "shape.bs"
    path.write_bytes(struct.pack("<3i", 3, 7, 11) + shapes.tobytes())
    np.testing.assert_array_equal(read_blendshapes(path), shapes)


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", struct.pack("<3i", -1, 7, 1), struct.pack("<3i", 2**30, 2**30, 1),
     struct.pack("<3i", 3, 7, 11) + b"\0" * 12],
)  # fmt: skip
def test_damaged_blendshapes_are_refused(tmp_path, content):
    path = tmp_path / "shape.bs"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"shape\.bs"):
        read_blendshapes(path)
    with pytest.raises(UserError, match="cannot read"):
        read_blendshapes(tmp_path / "absent.bs")
