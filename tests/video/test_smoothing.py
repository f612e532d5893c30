"""The smoothers: a dense twin, analytic answers, invariance, blinks, lag."""

from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.video.smoothing import (
    MODES,
    LiveSmoother,
    Motion,
    OneEuro,
    OneEuroConfig,
    SmootherConfig,
    alpha,
    kalman_smooth,
    noise_variance,
    process_noise,
    smooth_motion,
)

COUNT = 160
SIGMA = {"degrees": 0.4, "log_scale": 0.003, "position": 0.004, "expression": 0.015}


def motion(yaw_deg=None, expression=None, noise=1.0, seed=0) -> Motion:
    rng = np.random.default_rng(seed)
    angles = np.zeros((COUNT, 3))
    if yaw_deg is not None:
        angles[:, 1] = yaw_deg
    angles += noise * rng.normal(0, SIGMA["degrees"], angles.shape)
    values = np.zeros((COUNT, 3))
    if expression is not None:
        values[:, 0] = expression
    values += noise * rng.normal(0, SIGMA["expression"], values.shape)
    return Motion(
        rotation_from_euler_deg(torch.from_numpy(angles)).numpy(),
        noise * rng.normal(0, SIGMA["log_scale"], COUNT),
        noise * rng.normal(0, SIGMA["position"], (COUNT, 2)),
        values,
        np.ones(COUNT, bool),
        np.ones(COUNT),
    )


def yaw_of(result: Motion) -> np.ndarray:
    return np.degrees(np.arctan2(result.rotation[:, 0, 2], result.rotation[:, 2, 2]))


def bend(values: np.ndarray) -> float:
    return float(np.sqrt((np.diff(values, 2, axis=0) ** 2).mean()))


def lag(values: np.ndarray, truth: np.ndarray) -> float:
    at, shifts, inner = np.arange(COUNT), np.arange(-6, 6, 0.02), slice(10, -10)
    wrong = [((np.interp(at + s, at, values) - truth)[inner] ** 2).sum() for s in shifts]
    return float(shifts[int(np.argmin(wrong))])


def dense_path(values, noise, process):
    """The most probable path by one linear system over all states: the smoother's naive twin."""
    count = len(values)
    system, right = np.zeros((2 * count, 2 * count)), np.zeros(2 * count)
    for t in range(count):
        if np.isfinite(noise[t]):
            system[2 * t, 2 * t] += 1 / noise[t]
            right[2 * t] += values[t] / noise[t]
        if t:
            q = (process[t - 1] + process[t]) / 2
            weight = np.linalg.inv(q * np.array([[1 / 3, 1 / 2], [1 / 2, 1]]))
            step = np.zeros((2, 2 * count))
            step[:, 2 * t : 2 * t + 2] = np.eye(2)
            step[:, 2 * t - 2 : 2 * t] = -np.array([[1, 1], [0, 1]])
            system += step.T @ weight @ step
    return np.linalg.solve(system, right)[::2]


def test_kalman_smoother_is_the_most_probable_path() -> None:
    rng = np.random.default_rng(1)
    values = np.cumsum(rng.normal(size=(40, 3)), axis=0)
    noise, process = rng.uniform(0.2, 2, (40, 3)), rng.uniform(0.01, 1, (40, 3))
    noise[11:15, 1] = np.inf
    got = kalman_smooth(values, noise, process)
    for c in range(3):
        twin = dense_path(values[:, c], noise[:, c], process[:, c])
        np.testing.assert_allclose(got[:, c], twin, atol=2e-4)


def test_kalman_smoother_keeps_ramps_and_knows_no_direction_of_time() -> None:
    ramp = np.stack([3.0 + 0.7 * np.arange(50), -0.2 * np.arange(50)], 1)
    noise, process = np.full_like(ramp, 0.5), np.full_like(ramp, 0.01)
    np.testing.assert_allclose(kalman_smooth(ramp, noise, process), ramp, atol=1e-4)
    values = np.random.default_rng(2).normal(size=(50, 2))
    there = kalman_smooth(values, noise, process)
    back = kalman_smooth(values[::-1], noise, process)[::-1]
    np.testing.assert_allclose(there, back, atol=1e-4)


def test_noise_is_told_apart_from_motion() -> None:
    rng = np.random.default_rng(3)
    still = rng.normal(0, [0.1, 2.0], (2000, 2))
    moving = still + 30 * np.sin(np.arange(2000) * 0.12)[:, None]
    moving[500] += 100
    for values in (still, moving):
        assert np.sqrt(noise_variance(values)) == pytest.approx([0.1, 2.0], rel=0.1)
    assert noise_variance(np.zeros((2, 1)))[0] > 0


def test_process_noise_rises_where_something_moves_only() -> None:
    values = np.random.default_rng(4).normal(0, 0.01, (120, 1))
    values[60:64] += 0.8
    config = SmootherConfig()
    density = process_noise(values, np.array([1e-4]), np.ones(120, bool), config)[:, 0]
    assert density[58:66].min() > 100 * 1e-4
    assert np.median(density[:40]) == pytest.approx(config.stiffness * 1e-4)


@pytest.mark.parametrize(("mode", "least"), [("offline", 8.0), ("causal", 3.0)])
def test_a_still_face_is_steadier(mode, least) -> None:
    raw = motion(seed=5)
    got = smooth_motion(raw, SmootherConfig(mode=mode))
    assert bend(yaw_of(raw)) > least * bend(yaw_of(got))
    assert bend(raw.position) > least * bend(got.position)
    assert bend(raw.expression) > least * bend(got.expression)


@pytest.mark.parametrize(("mode", "most"), [("offline", 0.1), ("causal", 1.0)])
@pytest.mark.parametrize("hertz", [0.25, 0.5, 1.0, 2.0])
def test_lag_of_a_swinging_head_is_what_the_docs_say(mode, most, hertz) -> None:
    yaw = 25 * np.sin(2 * np.pi * hertz * np.arange(COUNT) / 25)
    got = smooth_motion(motion(yaw, seed=6), SmootherConfig(mode=mode))
    assert abs(lag(yaw_of(got), yaw)) <= most


def test_lag_of_a_ramp() -> None:
    yaw = np.clip(np.arange(COUNT) - 40.0, 0, 80) * 0.8
    causal = smooth_motion(motion(yaw, seed=7), SmootherConfig(mode="causal"))
    behind = (yaw - yaw_of(causal))[60:110].mean() / 0.8
    assert 0 <= behind <= 2
    offline = smooth_motion(motion(yaw, seed=7), SmootherConfig())
    assert abs((yaw - yaw_of(offline))[60:110].mean()) / 0.8 < 0.2


@pytest.mark.parametrize("mode", ["offline", "causal"])
def test_a_blink_of_four_frames_survives(mode) -> None:
    blink = np.zeros(COUNT)
    for start in range(30, COUNT - 10, 30):
        blink[start : start + 4] = (0.4, 0.8, 0.8, 0.4)
    got = smooth_motion(motion(expression=blink, seed=8), SmootherConfig(mode=mode))
    peaks = [got.expression[s : s + 5, 0].max() for s in range(30, COUNT - 10, 30)]
    assert min(peaks) >= 0.8 * 0.8


@pytest.mark.parametrize("mode", MODES)
def test_turning_and_moving_the_clip_turns_and_moves_the_result(mode) -> None:
    raw = motion(20 * np.sin(np.arange(COUNT) / 9), seed=9)
    turn = roma.random_rotmat(1, generator=None)[0].double().numpy()
    moved = replace(raw, rotation=turn @ raw.rotation, position=raw.position + [3.0, -2.0])
    config = SmootherConfig(mode=mode)
    plain, other = smooth_motion(raw, config), smooth_motion(moved, config)
    np.testing.assert_allclose(other.rotation, turn @ plain.rotation, atol=1e-6)
    np.testing.assert_allclose(other.position, plain.position + [3.0, -2.0], atol=1e-6)
    identity = other.rotation @ other.rotation.transpose(0, 2, 1)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-6)


def test_a_full_turn_has_no_seam() -> None:
    yaw = np.linspace(-170, 190, COUNT)
    got = smooth_motion(motion(yaw, noise=0.5, seed=10))
    apart = np.degrees(np.abs(np.unwrap(np.radians(yaw_of(got))) - np.radians(yaw)))
    assert apart[5:-5].max() < 1.0


def test_gaps_are_filled_between_their_ends() -> None:
    yaw = 0.5 * np.arange(COUNT)
    raw = motion(yaw, noise=0.1, seed=11)
    seen = np.ones(COUNT, bool)
    seen[70:80] = False
    rotation = raw.rotation.copy()
    rotation[70:80] = np.eye(3)
    gap = replace(raw, rotation=rotation, seen=seen)
    assert np.abs(yaw_of(smooth_motion(gap)) - yaw)[70:80].max() < 0.5
    held = yaw_of(smooth_motion(gap, SmootherConfig(mode="none")))
    np.testing.assert_allclose(held[70:80], held[69])


def test_the_causal_filter_does_not_see_the_future() -> None:
    raw = motion(20 * np.sin(np.arange(COUNT) / 9), seed=12)
    config = SmootherConfig(mode="causal")
    whole = smooth_motion(raw, config)
    live = LiveSmoother(config)
    for t in range(60):
        parts = live(raw.rotation[t], raw.log_scale[t], raw.position[t], raw.expression[t])
        assert np.array_equal(parts[0], whole.rotation[t])
        assert np.array_equal(parts[3], whole.expression[t])


def test_one_euro_opens_with_speed() -> None:
    one = OneEuro(np.array([0.01]), OneEuroConfig())
    unknown = np.full((1, 1), np.nan)
    shares = [float(one.share(np.array([[step]]), unknown)[0]) for step in (0, 0.1, 0.1, 0.1)]
    assert shares == sorted(shares) and shares[0] == pytest.approx(float(alpha(0.045)))
    assert shares[-1] > 0.7
    assert alpha(1 / (2 * np.pi)) == pytest.approx(0.5)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="offline, causal, none"):
        SmootherConfig(mode="kalman")  # type: ignore[arg-type]
    raw = motion()
    with pytest.raises(ValueError, match="begin"):
        smooth_motion(replace(raw, seen=np.zeros(COUNT, bool)))


def test_a_blink_in_a_channel_that_rests_at_zero_is_kept():
    """Lids that are exactly open but for one blink: no overflow, no ringing, the blink's depth."""
    values = np.zeros((120, 4))
    values[60:66, 1] = [0.3, 0.8, 1.0, 0.9, 0.5, 0.2]
    motion = Motion(
        np.broadcast_to(np.eye(3), (120, 3, 3)).copy(), np.zeros(120), np.zeros((120, 2)),
        values, np.ones(120, bool), np.ones(120),
    )  # fmt: skip
    smooth = smooth_motion(motion).expression
    assert smooth[:, 1].max() > 0.85
    assert np.abs(smooth[:, [0, 2, 3]]).max() < 1e-6
    assert np.abs(smooth[:55, 1]).max() < 0.05 and np.abs(smooth[72:, 1]).max() < 0.05
