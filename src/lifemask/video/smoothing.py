"""Smoothing of a head's motion: a causal One-Euro filter and a zero-phase Kalman smoother.

Channels: rotation on SO(3), logarithm of the scale, position in head sizes, expressions. Time is
counted in frames. Both methods first ask how noisy each channel is, so that their settings have no
unit and a sharp close-up is not smoothed like a small, dark face.

One-Euro: Casiez, Roussel and Vogel, "1 euro filter", CHI 2012. Smoother: Rauch, Tung and Striebel,
"Maximum likelihood estimates of linear dynamic systems", AIAA Journal 1965, with a model of
constant velocity whose process noise follows what the clip shows (`process_noise`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

Mode = Literal["offline", "causal", "none"]
MODES: tuple[Mode, ...] = ("offline", "causal", "none")
TYPICAL_NOISE = {"rotation": 0.008, "log_scale": 0.003, "position": 0.004, "expression": 0.015}
"""Standard deviation per frame from which the causal filter starts: radians, -, head sizes, -."""
STRIDES = (1, 2, 4)
"""Frames between those that tell whether something moves."""
_MAD = 1.4826  # median absolute deviation to standard deviation, normal distribution
_FLOOR = 1e-5
_LEAST_EXPRESSION = 2e-3
"""Standard deviation that an expression has at least: many rest at exactly 0 but for a moment."""


@dataclass(frozen=True)
class OneEuroConfig:
    """The causal filter; frequencies in cycles per frame, speeds in noise deviations per frame.

    Attributes:
        rest_cutoff: of a channel that does not move.
        speed_gain: how fast the cutoff grows with the speed beyond `still`.
        still: speed that counts as none.
        speed_cutoff: of the low-pass that the speed itself goes through.
        noise_memory: frames over which the noise is measured.
    """

    rest_cutoff: float = 0.045
    speed_gain: float = 0.25
    still: float = 0.55
    speed_cutoff: float = 0.12
    noise_memory: int = 60


@dataclass(frozen=True)
class SmootherConfig:
    """How a motion is smoothed.

    Attributes:
        mode: "offline" looks at the whole clip and adds no lag; "causal" looks at the past alone,
            as a live camera must; "none" leaves the frames as they are.
        stiffness: least process noise of the offline smoother, variance of the acceleration per
            frame in units of the measurement's variance; smaller is smoother.
        gate: how many times the noise's share of the acceleration must be exceeded before it
            counts as motion.
        window: strides on either side over which that is judged.
        one_euro: settings of "causal".
    """

    mode: Mode = "offline"
    stiffness: float = 0.2
    gate: float = 5.0
    window: int = 2
    one_euro: OneEuroConfig = field(default_factory=OneEuroConfig)

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: an unknown mode, or numbers that make no sense.
        """
        if self.mode not in MODES:
            raise ValueError(f"unknown smoothing {self.mode!r}; valid: {', '.join(MODES)}")
        if self.stiffness <= 0 or self.gate < 1 or self.window < 0:
            raise ValueError("stiffness must be positive, gate at least 1, window at least 0")


@dataclass(frozen=True)
class Motion:
    """A head's motion over consecutive frames.

    Attributes:
        rotation: (t, 3, 3) model frame to camera frame.
        log_scale: (t,) natural logarithm of px per mm.
        position: (t, 2) of the head's middle in the image, in head sizes.
        expression: (t, e).
        seen: (t,) False where nothing was measured; the other rows there are ignored.
        doubt: (t,) how unsure each frame is, relative to the others; 1 is ordinary.
    """

    rotation: Float[ndarray, "t 3 3"]
    log_scale: Float[ndarray, " t"]
    position: Float[ndarray, "t 2"]
    expression: Float[ndarray, "t e"]
    seen: Bool[ndarray, " t"]
    doubt: Float[ndarray, " t"]


def smooth_motion(motion: Motion, config: SmootherConfig | None = None) -> Motion:
    """The motion smoothed, and frames without a measurement filled in.

    Turning or moving the whole motion rigidly turns and moves the result alike.

    Args:
        motion: the first frame must be seen.
        config: how; None for the offline smoother.

    Returns:
        A motion whose rows are all meaningful; `seen` and `doubt` are those given. With "none" a
        frame that is not seen repeats the one before.

    Raises:
        ValueError: the first frame is not seen.
    """
    config = config or SmootherConfig()
    if not len(motion.seen) or not motion.seen[0]:
        raise ValueError("a motion must begin with a frame that is seen")
    if config.mode == "offline":
        return _smooth_offline(motion, config)
    return _filter_causally(motion, config)


# The offline smoother.


def noise_variance(
    values: Float[ndarray, "t c"], seen: Bool[ndarray, " t"] | None = None
) -> Float[ndarray, " c"]:
    """Variance of the measurement noise of each channel, told from its fourth differences.

    Motion that a cubic follows over five frames does not disturb it, nor do rare jumps: of white
    noise the fourth difference has 70 times the variance, and the median ignores outliers.

    Args:
        values: (t, c).
        seen: (t,) frames that count; None for all.
    """
    order = 4 if len(values) >= 12 else 2
    if len(values) <= order:
        return np.full(values.shape[1], _FLOOR**2)
    change = np.diff(values, order, axis=0)
    if seen is not None:
        known = np.lib.stride_tricks.sliding_window_view(seen, order + 1).all(-1)
        change = change[known] if known.any() else change[:1]
    gain = math.comb(2 * order, order)
    return np.maximum((_MAD * np.median(np.abs(change), axis=0)) ** 2 / gain, _FLOOR**2)


def process_noise(
    values: Float[ndarray, "t c"],
    noise: Float[ndarray, " c"],
    seen: Bool[ndarray, " t"],
    config: SmootherConfig,
) -> Float[ndarray, "t c"]:
    """Variance of the acceleration per frame that the smoother should expect at each frame.

    White noise of variance r has second differences of variance 6 r, whatever the stride h between
    the three frames; acceleration of spectral density q adds 2 q h^3 / 3. Where their mean square
    over a window exceeds the noise's share by the factor `gate`, the rest is motion: stride 1 tells
    a blink, stride 4 a slow nod, for which a much smaller q is enough.

    Args:
        values: (t, c).
        noise: (c,) variance r of the measurement.
        seen: (t,).
        config: stiffness, gate and window.
    """
    density = np.broadcast_to(config.stiffness * noise, values.shape)
    for stride in STRIDES:
        if len(values) > 2 * stride:
            mean = _mean_bend(values, seen, stride, config.window * stride)
            excess = mean - config.gate * 6 * noise
            density = np.maximum(density, 1.5 * excess / stride**3)
    return density


def _mean_bend(values: ndarray, seen: ndarray, stride: int, window: int) -> ndarray:
    """Local mean square (t, c) of the second differences at a stride; 0 where none is known."""
    bend, whole = np.zeros_like(values), np.zeros(len(values))
    inner, h = slice(stride, -stride), 2 * stride
    bend[inner] = (values[h:] - 2 * values[inner] + values[:-h]) ** 2
    whole[inner] = seen[h:] & seen[inner] & seen[:-h]
    kernel = np.ones(2 * window + 1)
    weight = np.maximum(_convolved(whole, kernel), 1.0)[:, None]
    return np.stack([_convolved(c * whole, kernel) for c in bend.T], 1) / weight


def _convolved(row: ndarray, kernel: ndarray) -> ndarray:
    """Convolution of the row's own length, whichever of the two is longer."""
    half = len(kernel) // 2
    return np.convolve(row, kernel)[half : half + len(row)]


def kalman_smooth(
    values: Float[ndarray, "t c"],
    noise: Float[ndarray, "t c"],
    process: Float[ndarray, "t c"],
) -> Float[ndarray, "t c"]:
    """Rauch-Tung-Striebel smoothing of independent channels with a constant-velocity model.

    The state is position and velocity per frame; white acceleration of density q between frames t
    and t + 1 adds `q [[1/3, 1/2], [1/2, 1]]` to its covariance. The start is unknown. The result is
    the most probable path: a ramp comes out unchanged, and reversed time gives the reversed path.

    Args:
        values: (t, c) measurements.
        noise: (t, c) variance of each; infinite where there is none.
        process: (t, c) density q; that of a step is the mean of its two frames.
    """
    count, channels = values.shape
    large = 1e6 * (np.nan_to_num(np.var(values, axis=0)) + noise[np.isfinite(noise)].max() + 1.0)
    x = np.stack([values[0], np.zeros(channels)])
    p = np.stack([large, np.zeros(channels), large])
    ahead, filtered = [], []
    for t in range(count):
        if t:
            x, p = _step(x, p, (process[t - 1] + process[t]) / 2)
        ahead.append((x, p))
        x, p = _updated(x, p, values[t], noise[t])
        filtered.append((x, p))
    result = np.empty_like(values)
    result[-1] = x[0]
    for t in range(count - 2, -1, -1):
        x, p = _back(filtered[t], ahead[t + 1], (x, p))
        result[t] = x[0]
    return result


def _step(x: ndarray, p: ndarray, q: ndarray) -> tuple[ndarray, ndarray]:
    a, b, c = p
    moved = np.stack([x[0] + x[1], x[1]])
    return moved, np.stack([a + 2 * b + c + q / 3, b + c + q / 2, c + q])


def _updated(x: ndarray, p: ndarray, value: ndarray, r: ndarray) -> tuple[ndarray, ndarray]:
    a, b, c = p
    gain = np.where(np.isfinite(r), 1 / (a + np.where(np.isfinite(r), r, 0)), 0.0)
    off = np.where(gain > 0, value - x[0], 0.0)
    # (1 - k) a written as a r / (a + r): no cancellation where a is large
    left = np.where(gain > 0, np.where(np.isfinite(r), r, 0) * gain, 1.0)
    moved = np.stack([x[0] + a * gain * off, x[1] + b * gain * off])
    return moved, np.stack([a * left, b * left, c - b * b * gain])


def _back(
    now: tuple[ndarray, ndarray], ahead: tuple[ndarray, ndarray], later: tuple[ndarray, ndarray]
) -> tuple[ndarray, ndarray]:
    """One step of the backward pass: gain `G = P F^T (P_ahead)^-1`, F = [[1, 1], [0, 1]]."""
    (x, (a, b, c)), (x1, (a1, b1, c1)), (xs, (a2, b2, c2)) = now, ahead, later
    determinant = np.maximum(a1 * c1 - b1 * b1, 1e-300)
    m00, m01, m10, m11 = a + b, b, b + c, c  # P F^T
    g00, g01 = (m00 * c1 - m01 * b1) / determinant, (m01 * a1 - m00 * b1) / determinant
    g10, g11 = (m10 * c1 - m11 * b1) / determinant, (m11 * a1 - m10 * b1) / determinant
    d0, d1 = xs[0] - x1[0], xs[1] - x1[1]
    moved = np.stack([x[0] + g00 * d0 + g01 * d1, x[1] + g10 * d0 + g11 * d1])
    e, f, h = a2 - a1, b2 - b1, c2 - c1
    p00 = a + g00 * (g00 * e + g01 * f) + g01 * (g00 * f + g01 * h)
    p01 = b + g10 * (g00 * e + g01 * f) + g11 * (g00 * f + g01 * h)
    p11 = c + g10 * (g10 * e + g11 * f) + g11 * (g10 * f + g11 * h)
    return moved, np.stack([p00, p01, p11])


def _smooth_offline(motion: Motion, config: SmootherConfig) -> Motion:
    middle = _mean_rotation(motion.rotation[motion.seen])
    turn = _unwrapped(_log(middle.T @ motion.rotation), motion.seen)
    parts = (turn, motion.log_scale[:, None], motion.position, motion.expression)
    values = np.concatenate([np.asarray(part, np.float64) for part in parts], 1)
    values = _held(values, motion.seen)
    noise = _shared(noise_variance(values, motion.seen))
    noise[6:] = np.maximum(noise[6:], _LEAST_EXPRESSION**2)
    process = _shared(process_noise(values, noise, motion.seen, config))
    spread = noise * motion.doubt[:, None] ** 2
    spread = np.where(motion.seen[:, None], spread, np.inf)
    smooth = kalman_smooth(values, spread, process)
    rotation = middle @ _exp(smooth[:, :3])
    return Motion(rotation, smooth[:, 3], smooth[:, 4:6], smooth[:, 6:], motion.seen, motion.doubt)


def _shared(variance: ndarray) -> ndarray:
    """Variances (*b, c) with their mean over the axes of rotation, and of position, in each."""
    result = variance.copy()
    for part in (slice(0, 3), slice(4, 6)):
        result[..., part] = variance[..., part].mean(-1, keepdims=True)
    return result


# The causal filter.


class OneEuro:
    """One-Euro filter of several vectors, fed frame by frame; its result needs no later frame.

    Args:
        noise: (g,) standard deviation of each group's channels to start from.
        config: settings.
    """

    def __init__(self, noise: Float[ndarray, " g"], config: OneEuroConfig) -> None:
        self.config = config
        self.noise = noise.astype(np.float64)
        self._speed: ndarray | None = None

    def share(self, step: Float[ndarray, "g d"], change: Float[ndarray, "g d"]) -> ndarray:
        """How far (0, 1] each group goes towards its new measurement.

        Args:
            step: (g, d) measurement minus the measurement before.
            change: (g, d) second difference of the measurements, for the noise; NaN if unknown.
        """
        config = self.config
        if np.isfinite(change).all():
            self._measure(change)
        if self._speed is None:
            self._speed = np.zeros_like(step)
        self._speed = self._speed + alpha(config.speed_cutoff) * (step - self._speed)
        width = np.sqrt(np.maximum((step != 0).sum(1), 1))
        speed = np.linalg.norm(self._speed, axis=1) / width / self.noise
        return alpha(config.rest_cutoff + config.speed_gain * np.maximum(speed - config.still, 0))

    def _measure(self, change: ndarray) -> None:
        """Follow the noise by clipped squares: a jump says little about it."""
        now = (change**2).mean(1) / 6
        limit = 4 * self.noise**2
        rate = 1 / self.config.noise_memory
        mixed = self.noise**2 + rate * (np.minimum(now, limit) - self.noise**2)
        self.noise = np.sqrt(np.maximum(mixed, _FLOOR**2))


def alpha(cutoff: ndarray | float) -> ndarray:
    """Weight of the new value in a first-order low-pass: `1 / (1 + 1 / (2 pi f))`, f per frame."""
    turns = 2 * np.pi * np.asarray(cutoff, np.float64)
    return turns / (1 + turns)


def _filter_causally(motion: Motion, config: SmootherConfig) -> Motion:
    """The One-Euro filter, or with "none" the frames themselves, gaps held."""
    live = LiveSmoother(config)
    rows = [
        live(r, s, p, e) if known else live.hold()
        for r, s, p, e, known in zip(
            motion.rotation,
            motion.log_scale,
            motion.position,
            motion.expression,
            motion.seen,
            strict=True,
        )
    ]
    rotation, scale, position, expression = (np.stack(x) for x in zip(*rows, strict=True))
    return Motion(rotation, scale, position, expression, motion.seen, motion.doubt)


State = tuple[ndarray, ndarray, ndarray, ndarray]


class LiveSmoother:
    """The causal smoother, fed one frame after the other, as a live camera gives them."""

    def __init__(self, config: SmootherConfig | None = None) -> None:
        config = config or SmootherConfig(mode="causal")
        self.passes = config.mode == "none"
        self.config = config.one_euro
        self._out: State | None = None
        self._last: State | None = None
        self._step: list[ndarray] | None = None
        self._filters: list[OneEuro] = []

    def hold(self) -> State:
        """The state again, for a frame in which nothing was measured."""
        assert self._out is not None
        self._step = None
        return self._out

    def __call__(
        self, rotation: ndarray, log_scale: ndarray, position: ndarray, expression: ndarray
    ) -> State:
        """The smoothed state after one more measurement.

        Args:
            rotation: (3, 3).
            log_scale: ().
            position: (2,).
            expression: (e,).
        """
        values = (rotation, np.asarray(log_scale, np.float64), position, expression)
        given: State = (*(np.asarray(v, np.float64) for v in values),)  # pyright: ignore[reportAssignmentType]
        if self._out is None or self._last is None or self.passes:
            self._start(given)
            self._out = self._last = given
            return given
        steps = [
            _log(self._last[0].T @ given[0])[None],
            (given[1] - self._last[1])[None, None],
            (given[2] - self._last[2])[None],
            (given[3] - self._last[3])[:, None],
        ]
        before = self._step or [np.full_like(s, np.nan) for s in steps]
        shares = [
            one.share(step, step - old)
            for one, step, old in zip(self._filters, steps, before, strict=True)
        ]
        out = self._out
        turned = out[0] @ _exp(shares[0][0] * _log(out[0].T @ given[0]))
        self._out = (
            turned,
            out[1] + shares[1][0] * (given[1] - out[1]),
            out[2] + shares[2][0] * (given[2] - out[2]),
            out[3] + shares[3] * (given[3] - out[3]),
        )
        self._last, self._step = given, steps
        return self._out

    def _start(self, given: State) -> None:
        sizes = {"rotation": 1, "log_scale": 1, "position": 1, "expression": len(given[3])}
        self._filters = [
            OneEuro(np.full(size, TYPICAL_NOISE[name]), self.config) for name, size in sizes.items()
        ]


# Rotations and gaps.


def _log(rotation: ndarray) -> ndarray:
    return roma.rotmat_to_rotvec(torch.from_numpy(np.ascontiguousarray(rotation))).numpy()


def _exp(turn: ndarray) -> ndarray:
    return roma.rotvec_to_rotmat(torch.from_numpy(np.ascontiguousarray(turn))).numpy()


def _mean_rotation(rotation: ndarray) -> ndarray:
    """The rotation nearest to the mean matrix."""
    nearest = roma.special_procrustes(torch.from_numpy(rotation.mean(0)))
    assert isinstance(nearest, torch.Tensor)
    return nearest.numpy()


def _unwrapped(turn: ndarray, seen: ndarray) -> ndarray:
    """Rotation vectors without jumps by a full turn; rows that are not seen stay."""
    result, last = turn.copy(), None
    for t in np.flatnonzero(seen):
        angle = np.linalg.norm(result[t])
        if last is not None and angle > np.pi / 2:
            other = result[t] * (1 - 2 * np.pi / angle)
            if np.linalg.norm(other - last) < np.linalg.norm(result[t] - last):
                result[t] = other
        last = result[t]
    return result


def _held(values: ndarray, seen: ndarray) -> ndarray:
    """The values with the last seen row in the place of those that are not."""
    last = np.maximum.accumulate(np.where(seen, np.arange(len(seen)), 0))
    return values[last]
