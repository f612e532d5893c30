"""What several photos of a person bring: shape error by their number, and the identity ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from lifemask.evaluation.metrics import identity_ratio
from lifemask.methods.pgn import PgnNet, PgnPredictor
from pgn_cases import Cases
from pgn_parts import Looked, Seen, heads_of, interval, neutral_errors_mm

RATIO_DRAWS = 500
Identities = Callable[[ndarray, ndarray], Tensor]
"""Rows of pictures and the number of their group to an identity (m, i) per group."""


def view_groups(person: ndarray, size: int, starts: int) -> tuple[ndarray, ndarray, ndarray]:
    """Groups of `size` views of each person: consecutive ones, from several first views on.

    Args:
        person: (n,) whose picture each is; all have the same number of views.
        size: photos of a group.
        starts: how many groups of a person, at most one from each view; all views of a person are
            one group only.

    Returns:
        Rows (g size,), their group (g size,), and each group's person (g,).
    """
    names = np.unique(person)
    views = [np.nonzero(person == name)[0] for name in names]
    count = len(views[0])
    first = np.arange(count)[: 1 if size == count else starts]
    chosen = (first[:, None] + np.arange(size)) % count
    rows = np.concatenate([own[chosen].ravel() for own in views])
    group = np.repeat(np.arange(len(names) * len(first)), size)
    return rows, group, np.repeat(names, len(first))


def by_photos(
    cases: Cases, identities: Identities, starts: int, most: int = 5
) -> tuple[dict[str, Any], dict[int, ndarray]]:
    """Neutral shape error in mm with 1, 2, ... photos, a mean per person, and its differences."""
    of_person: dict[int, ndarray] = {}
    out: dict[str, Any] = {}
    most = min(most, int(np.bincount(np.unique(cases.person, return_inverse=True)[1]).min()))
    for size in range(1, most + 1):
        rows, group, person = view_groups(cases.person, size, starts)
        true = cases.truth.identity[torch.from_numpy(rows[::size].copy())]
        errors = neutral_errors_mm(cases.model, identities(rows, group), true)
        names, index = np.unique(person, return_inverse=True)
        of_person[size] = np.bincount(index, errors) / np.bincount(index)
        out[str(size)] = interval(of_person[size])
        if size > 1:
            out[f"{size} - 1"] = interval(of_person[size] - of_person[1])
    return out | {"groups_per_person": starts}, of_person


def fused(net: PgnNet, seen: Seen) -> Identities:
    """PGN's identity of groups, from fused features."""

    def identities(rows: ndarray, group: ndarray) -> Tensor:
        found = heads_of(net, seen.rows(rows), torch.from_numpy(group)).identity
        return found[torch.from_numpy(np.nonzero(np.diff(group, prepend=-1))[0])]

    return identities


def averaged(single: Tensor) -> Identities:
    """The mean of what each photo says by itself."""

    def identities(rows: ndarray, group: ndarray) -> Tensor:
        index = torch.from_numpy(group)
        total = single.new_zeros(int(group.max()) + 1, single.shape[1])
        total.index_add_(0, index, single[torch.from_numpy(rows)])
        return total / torch.bincount(index)[:, None]

    return identities


def fitted_together(cases: Cases, weights: str) -> Identities:
    """`methods.fitting.fit_person` on our landmarker's points."""
    from lifemask.faces.landmarker import load_landmarker
    from lifemask.methods.fitting import fit_person

    landmarker = load_landmarker(weights, threads=1)  # type: ignore[arg-type]
    marks = [landmarker(cases.image(k), cases.box) for k in range(len(cases))]

    def identities(rows: ndarray, group: ndarray) -> Tensor:
        found = []
        for own in np.split(rows, np.nonzero(np.diff(group))[0] + 1):
            heads = fit_person([marks[k] for k in own], cases.model)
            assert heads[0].params is not None
            found.append(heads[0].params.identity.float())
        return torch.stack(found)

    return identities


def several_photos(
    predictor: PgnPredictor, cases: Cases, seen: Seen, fit_starts: int = 2
) -> dict[str, Any]:
    """Neutral shape error by number of photos: PGN, its mean of single photos, the landmark fit."""
    net = predictor.net
    alone = heads_of(net, seen).identity
    views = int(np.bincount(np.unique(cases.person, return_inverse=True)[1]).min())
    out: dict[str, Any] = {}
    ways: dict[str, tuple[Identities, int]] = {
        "pgn": (fused(net, seen), views),
        "pgn, mean of single photos": (averaged(alone), views),
    }
    if fit_starts:
        ways["fit"] = (fitted_together(cases, predictor.tag), fit_starts)
    for name, (identities, starts) in ways.items():
        out[name] = by_photos(cases, identities, starts)[0]
    mean_face = neutral_errors_mm(
        cases.model, torch.zeros_like(cases.truth.identity), cases.truth.identity
    )
    return out | {"mean face": interval(mean_face, cases.person)}


def clip_groups(person: ndarray, frame: ndarray | None, size: int, least: int) -> ndarray:
    """Number of each photo's group of `size` photos of one person, -1 for those left over.

    A group's photos come from different clips where the person has enough of them; of photos with
    the same number of clip and frame only the first counts. People with fewer than `least`
    photos are left out.

    Args:
        person: (n,).
        frame: (n,) clip times ten plus frame; None: every photo is a clip of its own.
        size: photos of a group.
        least: photos that a person must have.
    """
    group = np.full(len(person), -1)
    count = 0
    for name in np.unique(person):
        own = np.nonzero(person == name)[0]
        if frame is not None:
            own = own[np.unique(frame[own], return_index=True)[1]]
        if len(own) < least:
            continue
        own = own[_clip_by_clip(frame[own] // 10)] if frame is not None else own
        groups = len(own) // size
        if frame is None:
            member = np.repeat(np.arange(groups), size)
        else:  # neighbours in this order are of one clip: deal them out to different groups
            member = np.tile(np.arange(groups), size)
        group[own[: groups * size]] = count + member
        count += groups
    return group


def _clip_by_clip(clip: ndarray) -> ndarray:
    return np.argsort(clip, kind="stable")


def ratios(net: PgnNet, looked: Looked, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Identity ratio of estimates from 1, 2, ... photos each, for the same people."""
    crops = looked.faces.crops
    if crops.person is None:
        raise ValueError("nobody knows who is on these photos")
    out: dict[str, Any] = {}
    values: dict[int, ndarray] = {}
    for size in sizes:
        group = clip_groups(crops.person, crops.frame, size, 2 * max(sizes))
        rows = np.nonzero(group >= 0)[0]
        rows = rows[np.argsort(group[rows], kind="stable")]
        identity = fused(net, looked.seen)(rows, group[rows]).numpy()
        person = crops.person[rows[np.nonzero(np.diff(group[rows], prepend=-1))[0]]]
        value, values[size] = identity_ratio(identity, person), ratio_draws(identity, person)
        out[str(size)] = _with_interval(value, values[size]) | {"estimates": len(person)}
        if size > sizes[0]:
            gain = value - out[str(sizes[0])]["mean"]
            out[f"{size} - {sizes[0]}"] = _with_interval(gain, values[size] - values[sizes[0]])
    return out | {"people": len(np.unique(person))}


def ratio_draws(identity: ndarray, person: ndarray) -> ndarray:
    """The ratio of resampled people; equal draws for equal people."""
    rng = np.random.default_rng(0)
    own = [np.nonzero(person == name)[0] for name in np.unique(person)]
    found = []
    for _ in range(RATIO_DRAWS):
        drawn = [own[k] for k in rng.integers(0, len(own), len(own))]
        again = np.repeat(np.arange(len(drawn)), [len(rows) for rows in drawn])
        found.append(identity_ratio(identity[np.concatenate(drawn)], again))
    return np.array(found)


def _with_interval(value: float, draws: ndarray) -> dict[str, Any]:
    low, high = np.percentile(draws, (2.5, 97.5))
    return {"mean": round(value, 3), "ci95": [round(float(low), 3), round(float(high), 3)]}
