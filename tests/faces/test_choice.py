"""Which faces are reconstructed, and faces from boxes and landmarks."""

import logging

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.faces.choice import (
    NoFaceError,
    face_of_box,
    face_of_landmarks,
    largest_first,
    usable_faces,
)
from lifemask.types import Face, Landmarks

PHOTO = np.zeros((100, 100, 3), np.uint8)


def test_doubtful_faces_come_last():
    sure, doubtful = Face((0, 0, 40, 40), 0.9), Face((0, 0, 90, 90), 0.41)
    assert largest_first([doubtful, sure]) == [sure, doubtful]
    assert largest_first([]) == []


def test_small_faces_are_left_out_and_told(caplog):
    large, small = Face((0, 0, 40, 40), 0.9), Face((0, 0, 20, 20), 0.9)
    with caplog.at_level(logging.WARNING):
        assert usable_faces([small, large], PHOTO) == [large]
    assert "1 faces under 32 px" in caplog.text
    with pytest.raises(NoFaceError, match="only 20 px"):
        usable_faces([small], PHOTO)
    with pytest.raises(NoFaceError, match="no face found"):
        usable_faces([], PHOTO)


def test_the_face_of_a_box_is_sure():
    assert face_of_box([1, 2, 30, 40]) == Face((1.0, 2.0, 30.0, 40.0), 1.0)
    with pytest.raises(UserError, match="is empty"):
        face_of_box([10, 10, 5, 50])


def test_the_face_of_landmarks_is_about_those_that_are_seen():
    points = torch.tensor([[10.0, 20, 0], [50, 60, 0], [999, 999, 0], [float("nan"), 0, 0]])
    sigma = torch.tensor([1.0, 1.0, float("inf"), 1.0])
    assert face_of_landmarks(Landmarks(points, sigma, "any")).box == (10, 20, 50, 60)
    with pytest.raises(UserError, match="none of the landmarks is visible"):
        face_of_landmarks(Landmarks(points, torch.full((4,), torch.inf), "any"))
