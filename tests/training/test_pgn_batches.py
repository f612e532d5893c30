"""Batches of PGN: determinism, shares, whose frames stand together, and what is told of them."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from helpers import pgn_faces as toy
from lifemask.data.augment import NO_AUGMENTATION
from lifemask.facemodel import load_face_model
from lifemask.methods._pgn_types import CropCamera, PgnBatch
from lifemask.training.dasl_data import FaceSet
from lifemask.training.pgn_batches import PgnBatchConfig, PgnBatchMaker
from lifemask.training.pgn_data import PgnCorpus, PgnFaces

SIZE = 32
PLAIN = PgnBatchConfig(48, SIZE, NO_AUGMENTATION)
PEOPLE, FRAMES = 5, 4


def tagged(faces: PgnFaces, tag: int) -> PgnFaces:
    """Pictures that tell set and number by their colour, and by a bright right side if mirrored."""
    images = np.zeros((len(faces), toy.SIZE, toy.SIZE, 3), np.uint8)
    images[..., 0] = np.arange(len(faces))[:, None, None]
    images[..., 1] = tag
    images[:, :, toy.SIZE // 2 :, 2] = 255
    crops = replace(faces.crops, images=(images,))
    return replace(faces, faces=FaceSet(crops, faces.faces.labels))


def number(batch: PgnBatch) -> np.ndarray:
    """(b,) number of each crop's face in its set."""
    return (batch.crops[:, 0, 0, 0] * 255).round().int().numpy()


def tag(batch: PgnBatch) -> np.ndarray:
    return (batch.crops[:, 1, 0, 0] * 255).round().int().numpy()


def mirrored(batch: PgnBatch) -> np.ndarray:
    return (batch.crops[:, 2, 0, 0] > 0.5).numpy()


def labelled(tag: int = 0, **how) -> PgnFaces:
    return tagged(toy.faces_of(load_face_model(), PEOPLE, FRAMES, seed=1, **how), tag)


def video(yaw_deg=None, clips: int = 2, usable=None) -> PgnFaces:
    """Photos of people of whom several frames are known."""
    crops = toy.photos_of(load_face_model(), "ytf68", PEOPLE, FRAMES, clips=clips)
    yaw = np.tile(np.arange(FRAMES) * 20.0, PEOPLE) if yaw_deg is None else yaw_deg
    every = np.ones(len(crops), bool) if usable is None else usable
    return tagged(PgnFaces(FaceSet(crops), None, yaw.astype(np.float32), every), 9)


def singles() -> PgnFaces:
    crops = toy.photos_of(load_face_model(), "aflw21", PEOPLE, FRAMES)
    unknown = np.full(len(crops), np.nan, np.float32)
    return tagged(PgnFaces(FaceSet(crops), None, unknown, np.zeros(len(crops), bool)), 8)


@pytest.fixture(scope="module")
def corpus() -> PgnCorpus:
    """Renders by both cameras, singles and frames of videos."""
    sets = [labelled(0), labelled(1, pinhole=True)]
    return PgnCorpus(sets, {"aflw21": singles(), "ytf68": video()}, {})


def maker(corpus: PgnCorpus, config: PgnBatchConfig = PLAIN, **changes) -> PgnBatchMaker:
    return PgnBatchMaker(corpus, replace(config, **changes), load_face_model())


def of_videos(faces: PgnFaces, **changes) -> PgnBatchMaker:
    """Half renders, half frames of videos."""
    return maker(PgnCorpus([labelled()], {"ytf68": faces}, {}), mix=(0.5, 0.0, 0.5), **changes)


def equal(a: PgnBatch, b: PgnBatch) -> bool:
    return (
        torch.equal(a.crops, b.crops)
        and torch.equal(a.person, b.person)
        and torch.equal(a.pairs, b.pairs)
        and all(torch.equal(s.points, t.points) for s, t in zip(a.targets, b.targets, strict=True))
    )


def test_batches_depend_on_seed_step_and_rank_alone(corpus):
    config = PgnBatchConfig(16, SIZE)
    first, again = (maker(corpus, config) for _ in range(2))
    first(7)
    assert equal(first(3), again(3))
    assert not equal(first(3), first(4))
    assert not equal(first(3), maker(corpus, config, seed=1)(3))
    share, other = (first(3, rank, 2) for rank in (0, 1))
    assert len(share.crops) == len(other.crops) == 8 and not equal(share, other)


def test_a_batch_is_labelled_first_then_photos_by_source(corpus):
    batch = maker(corpus)(0)
    assert [(t.source, t.rows.start, t.rows.stop) for t in batch.targets] == [
        ("renders", 0, 24), ("aflw21", 24, 36), ("ytf68", 36, 48)
    ]  # fmt: skip
    shapes = [tuple(t.points.shape) for t in batch.targets]
    assert shapes == [(24, 392, 3), (12, 21, 2), (12, 68, 2)]
    assert [t.labels is None for t in batch.targets] == [False, True, True]
    assert all(t.visible.shape == t.points.shape[:2] for t in batch.targets)
    assert batch.crops.shape == (48, 3, SIZE, SIZE)
    assert batch.crops.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= batch.crops.min() and batch.crops.max() <= 1
    (camera,) = batch.cameras
    assert all(len(getattr(camera, f.name)) == 24 for f in fields(CropCamera))
    assert set(tag(batch)[:24]) == {0, 1}
    assert (tag(batch)[24:36] == 8).all() and (tag(batch)[36:] == 9).all()


@pytest.mark.parametrize("known", [(), ("ytf68",), ("aflw21",)])
def test_what_is_absent_falls_to_the_renders(corpus, known):
    some = replace(corpus, photos={n: corpus.photos[n] for n in known})
    sizes = [t.rows.stop - t.rows.start for t in maker(some)(0).targets]
    assert sizes == [48 - 12 * len(known), *([12] * len(known))]


@pytest.mark.parametrize("total", [2, 7, 10, 31])
def test_sources_get_whole_pairs_and_renders_the_rest(corpus, total):
    batch = maker(corpus, batch=total)(1)
    counts = [t.rows.stop - t.rows.start for t in batch.targets]
    assert sum(counts) == total == len(batch.person)
    assert all(c % 2 == 0 for t, c in zip(batch.targets, counts, strict=True) if t.labels is None)
    assert len(batch.cameras) == sum(t.labels is not None for t in batch.targets)


def test_frames_of_a_person_stand_together(corpus):
    batch = maker(corpus, alone=0.0)(2)
    person = batch.person.numpy()
    changes = np.diff(person)
    assert person[0] == 0 and set(changes) <= {0, 1}  # numbered in order, none left out
    face, source = number(batch), tag(batch)
    for i, j in batch.pairs.tolist():
        assert j == i + 1 and person[i] == person[j] and source[i] == source[j]
        assert face[i] != face[j] and face[i] // FRAMES == face[j] // FRAMES
    assert sorted(batch.pairs[:, 0].tolist()) == [*range(0, 24, 2), *range(36, 48, 2)]
    assert len(set(person[24:36])) == 12, "nobody knows who is on single photos"
    order = batch.pairs[:, 0].tolist()
    assert order != sorted(order), "the first pairs of a batch are those that are compared"


def test_labels_are_those_of_the_crops(corpus):
    batch = maker(corpus)(0)
    target, camera = batch.targets[0], batch.cameras[0]
    assert target.labels is not None
    for row, (face, which) in enumerate(zip(number(batch)[:24], tag(batch)[:24], strict=True)):
        own = corpus.labelled[which].faces.labels
        assert own is not None
        np.testing.assert_array_equal(target.labels.identity[row], own.identity[face])
        np.testing.assert_array_equal(target.labels.expression[row], own.expression[face])
        assert bool(camera.pinhole[row]) == bool(which)
    pairs = batch.pairs[batch.pairs[:, 0] < 24]
    first, second = target.labels.identity[pairs[:, 0]], target.labels.identity[pairs[:, 1]]
    assert torch.equal(first, second)


def test_a_persons_frames_are_mirrored_together(corpus):
    batch = maker(corpus, batch=192, augment=replace(NO_AUGMENTATION, flip=0.5), alone=0.0)(0)
    sides = mirrored(batch)
    for target in batch.targets:
        assert sides[target.rows].mean() == pytest.approx(0.5, abs=0.25)
    assert (sides[batch.pairs[:, 0]] == sides[batch.pairs[:, 1]]).all()
    labels = batch.targets[0].labels
    assert labels is not None
    pairs = batch.pairs[batch.pairs[:, 0] < len(labels.identity)]
    assert torch.equal(labels.identity[pairs[:, 0]], labels.identity[pairs[:, 1]])


def test_hidden_points_of_renders_count_and_those_of_photos_do_not(corpus):
    def hiding(faces: PgnFaces) -> PgnFaces:
        visible = np.ones_like(faces.crops.visible)
        visible[:, 0] = False
        return replace(
            faces, faces=replace(faces.faces, crops=replace(faces.crops, visible=visible))
        )

    sets = [hiding(corpus.labelled[0])]
    photos = {"ytf68": hiding(corpus.photos["ytf68"])}
    batch = maker(PgnCorpus(sets, photos, {}), augment=replace(NO_AUGMENTATION, flip=0.5))(0)
    renders, videos = batch.targets
    assert renders.visible.all()
    sides = mirrored(batch)[videos.rows]
    hidden = [row.nonzero()[0].tolist() for row in ~videos.visible.numpy()]
    assert hidden == [[16] if side else [0] for side in sides]  # the jaw's ends change places


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_pairs_count_as_two_people_but_stay_pairs(corpus, share):
    whole = maker(corpus, batch=400, alone=share)(0)
    first, second = whole.pairs.T
    apart = (whole.person[first] != whole.person[second]).float().mean()
    assert float(apart) == pytest.approx(share, abs=0.12 if 0 < share < 1 else 0)
    assert len(whole.pairs) == 150
    assert set(np.diff(whole.person.numpy())) <= {0, 1}


def test_without_pairs_everyone_stands_alone(corpus):
    batch = maker(corpus, pairs=False)(0)
    assert batch.person.tolist() == list(range(48)) and batch.pairs.shape == (0, 2)


def test_people_of_a_single_picture_are_no_pairs(corpus):
    faces = corpus.labelled[0]
    alone = faces.subset(np.arange(0, len(faces), FRAMES))
    batch = maker(PgnCorpus([alone], {}, {}), alone=0.0)(0)
    assert not len(batch.pairs) and batch.person.tolist() == list(range(48))


def test_singles_are_drawn_by_their_weight(corpus):
    faces = corpus.photos["aflw21"]
    weight = np.zeros(len(faces), np.float32)
    weight[[3, 11]] = 1.0, 3.0
    chosen = replace(faces, faces=FaceSet(replace(faces.crops, weight=weight)))
    batch = maker(PgnCorpus(corpus.labelled, {"aflw21": chosen}, {}), batch=800)(0)
    drawn = number(batch)[batch.targets[1].rows]
    assert set(drawn) == {3, 11}
    assert (drawn == 11).mean() == pytest.approx(0.75, abs=0.1)


def test_sets_of_renders_are_drawn_by_their_size(corpus):
    small = corpus.labelled[0].subset(np.arange(FRAMES))
    sets = PgnCorpus([small, corpus.labelled[1]], {}, {})
    batch = maker(sets, batch=600)(0)
    assert (tag(batch) == 0).mean() == pytest.approx(1 / (1 + PEOPLE), abs=0.06)


# which frames make a pair


def drawn_pairs(make: PgnBatchMaker, steps: int = 6) -> np.ndarray:
    """(p, 2) numbers of the faces of all pairs of videos."""
    found = []
    for step in range(steps):
        batch = make(step)
        rows = batch.pairs[batch.pairs[:, 0] >= batch.targets[1].rows.start]
        found.append(number(batch)[rows.numpy()])
    return np.concatenate(found)


def test_a_picture_is_never_its_own_partner():
    """Nor is another crop with its number: both may show the same picture."""
    faces = video()
    frame = np.tile([0, 0, 0, 10], PEOPLE)
    crops = replace(faces.crops, frame=frame)
    pairs = drawn_pairs(of_videos(replace(faces, faces=FaceSet(crops))))
    assert len(pairs) == 6 * 12
    assert (frame[pairs[:, 0]] != frame[pairs[:, 1]]).all()
    assert (crops.person is not None) and len(set(crops.person[pairs[:, 0]])) == PEOPLE


def test_people_with_one_picture_twice_are_left_out():
    faces = video()
    frame = np.tile([0, 0, 10, 11], PEOPLE)
    frame[:FRAMES] = 7
    crops = replace(faces.crops, frame=frame)
    pairs = drawn_pairs(of_videos(replace(faces, faces=FaceSet(crops))))
    assert pairs.min() >= FRAMES


def test_partners_are_turned_apart_where_they_can_be():
    yaw = np.tile([0.0, 1.0, 2.0, 40.0], PEOPLE)
    faces = video(yaw, clips=1)
    pairs = drawn_pairs(of_videos(faces))
    gap = np.abs(yaw[pairs[:, 0]] - yaw[pairs[:, 1]])
    assert (gap > 10).all()  # four tries see all of four frames
    wide = np.tile([0.0, 1.0, 2.0, 95.0], PEOPLE)
    pairs = drawn_pairs(of_videos(video(wide, clips=1)))
    gap = np.abs(wide[pairs[:, 0]] - wide[pairs[:, 1]])
    assert (gap > 60).mean() < 0.9, "too far apart is no better than too close"


def test_partners_come_from_other_clips_where_they_can():
    alike = np.zeros(PEOPLE * FRAMES)
    faces = video(alike, clips=2)
    frame = faces.crops.frame
    assert frame is not None
    pairs = drawn_pairs(of_videos(faces))
    assert (frame[pairs[:, 0]] // 10 != frame[pairs[:, 1]] // 10).all()
    unknown = np.full(PEOPLE * FRAMES, np.nan)
    assert len(drawn_pairs(of_videos(video(unknown)))) == 6 * 12


def test_a_turned_partner_is_worth_more_than_another_clip():
    yaw = np.tile([0.0, 0.0, 30.0, 0.0], PEOPLE)  # frames 0 and 2 share a clip
    pairs = drawn_pairs(of_videos(video(yaw)))
    rest = pairs % FRAMES
    assert set(rest[rest[:, 0] == 0, 1]) == {2}


def test_stretched_frames_are_used_but_not_compared():
    usable = np.ones(PEOPLE * FRAMES, bool)
    usable[::FRAMES] = False
    make = of_videos(video(usable=usable), alone=0.0)
    drawn, compared = [], []
    for step in range(6):
        batch = make(step)
        rows = batch.targets[1].rows
        drawn.append(number(batch)[rows])
        compared.append(number(batch)[batch.pairs[batch.pairs[:, 0] >= rows.start].numpy()])
        person = batch.person[rows]
        assert (person[::2] == person[1::2]).all(), "they still are of one person"
    used, pairs = np.concatenate(drawn), np.concatenate(compared)
    assert (~usable[used]).any()
    assert usable[pairs].all() and 0 < len(pairs) < 6 * 12
