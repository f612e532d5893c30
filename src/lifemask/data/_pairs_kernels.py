"""Numba kernels of the pairs: distances in a band about a mesh, and winding numbers along rays."""

from __future__ import annotations

import numpy as np
from numba import njit

EXACT = {"cache": True, "nogil": True, "error_model": "numpy"}
"""No fast-math: signs of exactly equal expressions must be equal."""
UNSEEN, WAITING = np.int32(-1), np.int32(-2)
"""Owners of voxels that no triangle is known for; the waiting ones are about to ask."""


@njit(**EXACT)
def _triangle_distance_sq(t, px, py, pz):
    """Squared distance from a point to a triangle (3, 3) (Ericson 2005, section 5.1.5)."""
    abx, aby, abz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
    acx, acy, acz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
    apx, apy, apz = px - t[0, 0], py - t[0, 1], pz - t[0, 2]
    d1 = abx * apx + aby * apy + abz * apz
    d2 = acx * apx + acy * apy + acz * apz
    bb = abx * abx + aby * aby + abz * abz
    bc = abx * acx + aby * acy + abz * acz
    cc = acx * acx + acy * acy + acz * acz
    d3, d4 = d1 - bb, d2 - bc  # of the second corner
    d5, d6 = d1 - bc, d2 - cc  # of the third
    v, w = 0.0, 0.0
    va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
    if d1 <= 0.0 and d2 <= 0.0:
        v, w = 0.0, 0.0
    elif d3 >= 0.0 and d4 <= d3:
        v, w = 1.0, 0.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        v, w = d1 / (d1 - d3), 0.0
    elif d6 >= 0.0 and d5 <= d6:
        v, w = 0.0, 1.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        v, w = 0.0, d2 / (d2 - d6)
    elif va <= 0.0 and d4 >= d3 and d5 >= d6:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        v = 1.0 - w
    else:
        total = va + vb + vc
        v, w = vb / total, vc / total
    x = apx - v * abx - w * acx
    y = apy - v * aby - w * acy
    z = apz - v * abz - w * acz
    return x * x + y * y + z * z


@njit(**EXACT)
def _seed(corners, low, step, best, owner, queue):
    """Distances of voxels in the boxes of the triangles; the number of voxels in `queue`."""
    n0, n1, n2 = best.shape
    count = 0
    for f in range(corners.shape[0]):
        t = corners[f]
        i0 = max(0, int(np.floor((min(t[0, 0], t[1, 0], t[2, 0]) - low[0]) / step)))
        i1 = min(n0 - 1, int(np.ceil((max(t[0, 0], t[1, 0], t[2, 0]) - low[0]) / step)))
        j0 = max(0, int(np.floor((min(t[0, 1], t[1, 1], t[2, 1]) - low[1]) / step)))
        j1 = min(n1 - 1, int(np.ceil((max(t[0, 1], t[1, 1], t[2, 1]) - low[1]) / step)))
        k0 = max(0, int(np.floor((min(t[0, 2], t[1, 2], t[2, 2]) - low[2]) / step)))
        k1 = min(n2 - 1, int(np.ceil((max(t[0, 2], t[1, 2], t[2, 2]) - low[2]) / step)))
        for i in range(i0, i1 + 1):
            x = low[0] + i * step
            for j in range(j0, j1 + 1):
                y = low[1] + j * step
                for k in range(k0, k1 + 1):
                    d = _triangle_distance_sq(t, x, y, low[2] + k * step)
                    if d > 4.0 * step * step:
                        continue
                    if owner[i, j, k] < 0:
                        queue[count] = (i * n1 + j) * n2 + k
                        count += 1
                    if owner[i, j, k] < 0 or d < best[i, j, k]:
                        best[i, j, k] = d
                        owner[i, j, k] = f
    return count


@njit(**EXACT)
def _settle(corners, beside, f, d, x, y, z):
    """Walk from triangle f, at squared distance d, over edges to nearer ones: the last, its d."""
    while True:
        best = f
        for e in range(3):
            g = beside[f, e]
            nearer = _triangle_distance_sq(corners[g], x, y, z)
            if nearer < d * (1.0 - 1e-12):
                best, d = g, nearer
        if best == f:
            return f, d
        f = best


@njit(**EXACT)
def _ask_neighbours(corners, beside, low, step, best, owner, v):
    """Lower the distance of voxel v by the triangles of the voxels beside it, and walk on.

    Those that share a side are asked; only if none of them is measured, those at edges and corners.
    """
    n0, n1, n2 = best.shape
    i, j, k = v // (n1 * n2), v // n2 % n1, v % n2
    x, y, z = low[0] + i * step, low[1] + j * step, low[2] + k * step
    first = mine = owner[i, j, k]
    found = np.inf if mine < 0 else np.float64(best[i, j, k])
    for most in (1, 3):
        for a in range(max(0, i - 1), min(n0, i + 2)):
            for b in range(max(0, j - 1), min(n1, j + 2)):
                for c in range(max(0, k - 1), min(n2, k + 2)):
                    if abs(a - i) + abs(b - j) + abs(c - k) > most:
                        continue
                    f = owner[a, b, c]
                    if f >= 0 and f != first and f != mine:
                        d = _triangle_distance_sq(corners[f], x, y, z)
                        if d < found:
                            found, mine = d, f
        if mine >= 0:
            break
    if mine >= 0:
        mine, found = _settle(corners, beside, mine, found, x, y, z)
        best[i, j, k] = found
        owner[i, j, k] = mine


@njit(**EXACT)
def _grow(corners, beside, low, step, best, owner, queue, begin, end, close):
    """One ring more: voxels that share a side with close ones of queue[begin:end]; its new end."""
    n0, n1, n2 = best.shape
    count = end
    for q in range(begin, end):
        if not close[q]:
            continue
        v = queue[q]
        i, j, k = v // (n1 * n2), v // n2 % n1, v % n2
        for a in range(max(0, i - 1), min(n0, i + 2)):
            for b in range(max(0, j - 1), min(n1, j + 2)):
                for c in range(max(0, k - 1), min(n2, k + 2)):
                    if owner[a, b, c] == UNSEEN and abs(a - i) + abs(b - j) + abs(c - k) == 1:
                        owner[a, b, c] = WAITING
                        queue[count] = (a * n1 + b) * n2 + c
                        count += 1
    for q in range(end, count):
        _ask_neighbours(corners, beside, low, step, best, owner, queue[q])
    return count


@njit(**EXACT)
def _ball_distance(balls, x, y, z):
    """Signed distance to the nearest of some balls (e, 4), infinite without any."""
    best = np.inf
    for e in range(balls.shape[0]):
        dx, dy, dz = x - balls[e, 0], y - balls[e, 1], z - balls[e, 2]
        best = min(best, np.sqrt(dx * dx + dy * dy + dz * dz) - balls[e, 3])
    return best


@njit(**EXACT)
def fill_band(corners, beside, balls, low, step, band, best, owner, queue):
    """Distances to the nearest triangle in a band about a mesh and some balls.

    Voxels in a triangle's box are measured against it; from there the nearest triangles spread,
    ring by ring, to voxels beside them (as in Bridson's level-set construction), each walking over
    the mesh to the nearest triangle it finds; then every voxel asks its neighbours twice more.

    Args:
        corners: (f, 3, 3) float64.
        beside: (f, 3) triangles across the edges of each.
        balls: (e, 4) centres and radii; the band goes around them, too, not their distances.
        low: (3,) place of voxel (0, 0, 0).
        step: between voxels.
        band: half width.
        best: (n0, n1, n2) float32, overwritten with squared distances.
        owner: (n0, n1, n2) int32, overwritten with the nearest triangle; -1 outside the band.
        queue: (n0 * n1 * n2,) int64, overwritten with the voxels that were reached.

    Returns:
        How many voxels were reached: all those in the band, and a ring around it.
    """
    n0, n1, n2 = best.shape
    owner[:] = UNSEEN
    begin, end = 0, _seed(corners, low, step, best, owner, queue)
    close = np.zeros(queue.shape[0], np.bool_)
    while end > begin:
        for q in range(begin, end):
            v = queue[q]
            i, j, k = v // (n1 * n2), v // n2 % n1, v % n2
            close[q] = best[i, j, k] <= band * band
            if not close[q] and balls.shape[0] > 0:
                x, y, z = low[0] + i * step, low[1] + j * step, low[2] + k * step
                close[q] = abs(_ball_distance(balls, x, y, z)) <= band
        begin, end = end, _grow(corners, beside, low, step, best, owner, queue, begin, end, close)
    flat, last = owner.ravel(), n0 * n1 * n2 - 1
    for w in range(2 * last + 2):  # there and back
        v = w if w <= last else 2 * last + 1 - w
        if flat[v] >= 0:
            _ask_neighbours(corners, beside, low, step, best, owner, v)
    return end


@njit(**EXACT)
def grow_rim(corners, beside, low, step, best, owner, queue, near, end, rim):
    """Measure the box of `rim` voxels to all sides of the `near` ones; the new end of the queue.

    Args:
        corners: as in `fill_band`.
        beside: as in `fill_band`.
        low: (3,).
        step: between voxels.
        best: from `fill_band`, completed.
        owner: from `fill_band`, completed.
        queue: from `fill_band`, longer.
        near: (m,) flat ids of the voxels in the middle.
        end: of the queue so far.
        rim: voxels.
    """
    n0, n1, n2 = best.shape
    wanted = np.zeros((n0, n1, n2), np.bool_)
    front = near
    for _ in range(rim):
        begin = end
        for v in front:
            i, j, k = v // (n1 * n2), v // n2 % n1, v % n2
            for a in range(max(0, i - 1), min(n0, i + 2)):
                for b in range(max(0, j - 1), min(n1, j + 2)):
                    for c in range(max(0, k - 1), min(n2, k + 2)):
                        if not wanted[a, b, c]:
                            wanted[a, b, c] = True
                            if owner[a, b, c] == UNSEEN:
                                owner[a, b, c] = WAITING
                                queue[end] = (a * n1 + b) * n2 + c
                                end += 1
        for q in range(begin, end):
            _ask_neighbours(corners, beside, low, step, best, owner, queue[q])
        front = np.flatnonzero(wanted)
    return end


@njit(**EXACT)
def point_distances(corners, beside, low, step, owner, points, out):
    """Distances (m,) of points to the nearest triangle about those of the voxels around them.

    Args:
        corners: as in `fill_band`.
        beside: as in `fill_band`.
        low: (3,).
        step: between voxels.
        owner: from `fill_band`.
        points: (m, 3).
        out: (m,), overwritten; infinite where no voxel around is measured.
    """
    n0, n1, n2 = owner.shape
    for p in range(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        i = int(np.rint((x - low[0]) / step))
        j = int(np.rint((y - low[1]) / step))
        k = int(np.rint((z - low[2]) / step))
        best, mine = np.inf, UNSEEN
        for a in range(max(0, i - 1), min(n0, i + 2)):
            for b in range(max(0, j - 1), min(n1, j + 2)):
                for c in range(max(0, k - 1), min(n2, k + 2)):
                    f = owner[a, b, c]
                    if f >= 0 and f != mine:
                        d = _triangle_distance_sq(corners[f], x, y, z)
                        if d < best:
                            best, mine = d, f
        if mine >= 0:
            mine, best = _settle(corners, beside, mine, best, x, y, z)
        out[p] = np.sqrt(best)


@njit(**EXACT)
def _side(vertices, a, b, x, y):
    """(area, sign): on which side of the edge a -> b a vertical line stands.

    The sign is 0 for an edge of length 0 alone. The edge is looked at from its lower id, so that
    both its triangles get the same number, and a line that hits it is thought of as moved by
    (e, e^2) for an infinitely small e.
    """
    p, q = min(a, b), max(a, b)
    dx, dy = vertices[q, 0] - vertices[p, 0], vertices[q, 1] - vertices[p, 1]
    area = dx * (y - vertices[p, 1]) - dy * (x - vertices[p, 0])
    leaning = area
    if leaning == 0.0:
        leaning = -dy if dy != 0.0 else dx
    sign = 1 if leaning > 0.0 else (-1 if leaning < 0.0 else 0)
    return (area, sign) if p == a else (-area, -sign)


@njit(**EXACT)
def _crossing(vertices, i0, i1, i2, x, y):
    """(+1 from outside in, -1 out, 0 none; height) where a line from above meets a triangle."""
    a0, s0 = _side(vertices, i0, i1, x, y)
    a1, s1 = _side(vertices, i1, i2, x, y)
    a2, s2 = _side(vertices, i2, i0, x, y)
    total = a0 + a1 + a2
    if s0 != s1 or s1 != s2 or s0 == 0 or total == 0.0:
        return 0, 0.0
    height = a1 * vertices[i0, 2] + a2 * vertices[i1, 2] + a0 * vertices[i2, 2]
    return s0, height / total


@njit(**EXACT)
def _shadow(vertices, faces, f, low, step, n0, n1):
    """Range (i0, i1, j0, j1), ends included, of the cells that a triangle's shadow may touch.

    Of the columns at their corners, too, hence rounded up at the end.
    """
    x0 = min(vertices[faces[f, 0], 0], vertices[faces[f, 1], 0], vertices[faces[f, 2], 0])
    x1 = max(vertices[faces[f, 0], 0], vertices[faces[f, 1], 0], vertices[faces[f, 2], 0])
    y0 = min(vertices[faces[f, 0], 1], vertices[faces[f, 1], 1], vertices[faces[f, 2], 1])
    y1 = max(vertices[faces[f, 0], 1], vertices[faces[f, 1], 1], vertices[faces[f, 2], 1])
    return (
        max(0, int(np.floor((x0 - low[0]) / step))),
        min(n0 - 1, int(np.ceil((x1 - low[0]) / step))),
        max(0, int(np.floor((y0 - low[1]) / step))),
        min(n1 - 1, int(np.ceil((y1 - low[1]) / step))),
    )


@njit(**EXACT)
def winding_numbers(vertices, faces, points, low, step, starts, order, out):
    """Winding number (m,) of a closed mesh about points: crossings of the rays towards +z.

    Args:
        vertices: (v, 3) float64.
        faces: (f, 3), counter-clockwise from outside; every edge has its opposite.
        points: (m, 3).
        low: (2,) corner of a grid of square cells over (x, y) that holds the points.
        step: side of a cell.
        starts: (n0 + 1, n1) where the points of each cell begin in `order`; row n0 ends them.
        order: (m,) points sorted by cell.
        out: (m,) int32, overwritten.
    """
    n0, n1 = starts.shape[0] - 1, starts.shape[1]
    out[:] = 0
    flat = starts.ravel()
    for f in range(faces.shape[0]):
        i0, i1, j0, j1 = _shadow(vertices, faces, f, low, step, n0, n1)
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                cell = i * n1 + j
                for m in range(flat[cell], flat[cell + 1]):
                    p = order[m]
                    turn, height = _crossing(
                        vertices, faces[f, 0], faces[f, 1], faces[f, 2], points[p, 0], points[p, 1]
                    )
                    if turn != 0 and height > points[p, 2]:
                        out[p] += turn


@njit(**EXACT)
def _crossings(vertices, faces, low, step, n0, n1):
    """Where the columns of a lattice cross a mesh: starts (n0 n1 + 1,), heights and turns (c,)."""
    starts = np.zeros(n0 * n1 + 1, np.int64)
    heights, turns = np.empty(0), np.empty(0, np.int32)
    fill = starts
    for write in range(2):
        if write:
            starts[1:] = np.cumsum(starts[:-1])
            starts[0] = 0
            heights, turns = np.empty(starts[-1]), np.empty(starts[-1], np.int32)
            fill = starts[:-1].copy()
        for f in range(faces.shape[0]):
            i0, i1, j0, j1 = _shadow(vertices, faces, f, low, step, n0, n1)
            for i in range(i0, i1 + 1):
                for j in range(j0, j1 + 1):
                    turn, height = _crossing(
                        vertices, faces[f, 0], faces[f, 1], faces[f, 2],
                        low[0] + i * step, low[1] + j * step,
                    )  # fmt: skip
                    if turn == 0:
                        continue
                    if write:
                        heights[fill[i * n1 + j]] = height
                        turns[fill[i * n1 + j]] = turn
                    fill[i * n1 + j] += 1
    return starts, heights, turns


@njit(**EXACT)
def sign_band(vertices, faces, balls, low, step, best, owner, out):
    """Signed distances of measured voxels, with the balls' union: negative inside.

    The sign is the winding number's, as of `winding_numbers`, by columns that share their rays.

    Args:
        vertices: (v, 3) float64.
        faces: (f, 3) as in `winding_numbers`.
        balls: (e, 4).
        low: (3,) place of voxel (0, 0, 0).
        step: between voxels.
        best: (n0, n1, n2) squared distances.
        owner: (n0, n1, n2), -1 where nothing is measured.
        out: (n0, n1, n2) float32, overwritten; infinite where nothing is measured.
    """
    n0, n1, n2 = best.shape
    starts, heights, turns = _crossings(vertices, faces, low, step, n0, n1)
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                out[i, j, k] = np.inf
                if owner[i, j, k] < 0:
                    continue
                z, total = low[2] + k * step, 0
                for c in range(starts[i * n1 + j], starts[i * n1 + j + 1]):
                    if heights[c] > z:
                        total += turns[c]
                d = np.sqrt(best[i, j, k])
                d = -d if total > 0 else d
                out[i, j, k] = min(
                    d, _ball_distance(balls, low[0] + i * step, low[1] + j * step, z)
                )
