"""NME, pooling, intervals and pose errors against analytic cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifemask.evaluation import metrics
from lifemask.evaluation.align import align_depth, align_similarity


def faces(n=4, seed=0):
    """Faces (n, 68, 3) whose boxes are exactly 100 wide and 64 high: sqrt(w h) = 80."""
    points = np.random.default_rng(seed).uniform(-1, 1, (n, 68, 3)) * [49, 31, 40]
    points[:, 0, :2], points[:, 1, :2] = (-50, -32), (50, 32)
    return points + [200.0, 220.0, 5.0]


def test_normaliser_is_the_root_of_the_area_not_the_diagonal():
    np.testing.assert_allclose(metrics.nme_normaliser_px(faces()), 80.0)


def test_perfect_prediction_scores_zero():
    truth = faces()
    assert (metrics.nme_percent(truth, truth, truth) == 0).all()
    assert (metrics.nme_percent(truth, truth, truth, dims=3, z_align="min") == 0).all()


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_a_shift_gives_its_length_over_the_normaliser(du, dv):
    truth = faces()
    moved = truth + [du, dv, 0]
    expected = 100 * np.hypot(du, dv) / 80
    for keep in (slice(None), slice(17, None)):
        values = metrics.nme_percent(moved[:, keep], truth[:, keep], truth)
        np.testing.assert_allclose(values, expected, atol=1e-9)


def test_reading_zero_based_output_as_one_based_costs_what_the_shift_costs():
    truth = faces()
    assert metrics.nme_percent(truth - 1, truth, truth)[0] == pytest.approx(100 * 2**0.5 / 80)


def test_equals_a_naive_twin():
    truth, guess = faces(3, seed=4), faces(3, seed=5)
    for i, value in enumerate(metrics.nme_percent(guess, truth, truth)):
        left, right = min(p[0] for p in truth[i]), max(p[0] for p in truth[i])
        top, bottom = min(p[1] for p in truth[i]), max(p[1] for p in truth[i])
        side = ((right - left) * (bottom - top)) ** 0.5
        total = 0.0
        for p, g in zip(guess[i], truth[i], strict=True):
            total += ((p[0] - g[0]) ** 2 + (p[1] - g[1]) ** 2) ** 0.5
        assert value == pytest.approx(100 * total / 68 / side)


def test_depth_is_ignored_in_2d_and_its_origin_in_3d():
    truth = faces()
    nearer = truth + [0, 0, 12.0]
    assert (metrics.nme_percent(nearer, truth, truth) == 0).all()
    for how in ("min", "mean"):
        values = metrics.nme_percent(nearer, truth, truth, dims=3, z_align=how)
        np.testing.assert_allclose(values, 0, atol=1e-9)
    np.testing.assert_allclose(metrics.nme_percent(nearer, truth, truth, dims=3), 1200 / 80)


def test_min_alignment_lets_one_point_spoil_all():
    truth = faces()
    spoilt = truth.copy()
    spoilt[np.arange(4), truth[..., 2].argmin(axis=1), 2] -= 68.0
    by_min = metrics.nme_percent(spoilt, truth, truth, dims=3, z_align="min")
    by_mean = metrics.nme_percent(spoilt, truth, truth, dims=3, z_align="mean")
    np.testing.assert_allclose(by_min, 100 * 67 * 68 / 68 / 80)
    np.testing.assert_allclose(by_mean, 100 * (67 * 1 + 67) / 68 / 80)


def test_invisible_points_do_not_count():
    truth = faces()
    guess = truth + [3.0, 4.0, 0]
    guess[:, :10] = np.nan
    visible = np.ones(truth.shape[:2], bool)
    visible[:, :10] = False
    values = metrics.nme_percent(guess, truth, truth, visible=visible)
    np.testing.assert_allclose(values, 100 * 5 / 80)
    visible[1] = False
    assert np.isnan(metrics.nme_percent(guess, truth, truth, visible=visible)[1])


def test_three_dimensions_need_three_coordinates():
    with pytest.raises(ValueError, match="dims=3"):
        metrics.nme_percent(faces()[..., :2], faces(), faces(), dims=3)


def test_bin_edges_belong_to_the_lower_bin():
    yaw = np.array([0, 30, -30, 30.001, -60, 60, 60.001, -90])
    assert metrics.yaw_bins(yaw).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_mean_of_bins_is_not_mean_of_images():
    values = np.array([1.0] * 8 + [4.0] + [10.0])
    bins = np.array([0] * 8 + [1] + [2])
    assert metrics.pooled(values, bins, "bins") == 5.0
    assert metrics.pooled(values, bins, "images") == pytest.approx(2.2)


def test_an_empty_bin_gives_no_mean_of_bins():
    assert np.isnan(metrics.pooled(np.ones(4), np.array([0, 0, 1, 1]), "bins"))
    assert metrics.pooled(np.ones(4), np.array([0, 0, 1, 1]), "images") == 1


def test_a_miss_costs_the_centre_of_the_box_and_never_disappears():
    truth = faces()
    found = np.array([True, False, True, True])
    guess = truth.copy()
    guess[1] = np.nan
    filled = metrics.score_misses(guess, found, truth)
    values = metrics.nme_percent(filled, truth, truth)
    center = np.array([200.0, 220.0])
    expected = 100 * np.linalg.norm(truth[1, :, :2] - center, axis=1).mean() / 80
    np.testing.assert_allclose(values, [0, expected, 0, 0], atol=1e-9)
    assert np.isnan(guess[1]).all()  # the input is left alone


def test_interval_covers_the_mean_and_shrinks_with_images():
    rng = np.random.default_rng(1)
    widths = []
    for n in (600, 6000):
        values, bins = rng.gamma(2, 2, n), np.arange(n) % 3
        low, high = metrics.bootstrap_ci95(values, bins, "bins")
        assert low < metrics.pooled(values, bins, "bins") < high
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 10**0.5, rel=0.25)


def test_interval_has_the_textbook_width():
    values = np.random.default_rng(2).normal(0, 1, 2000)
    low, high = metrics.bootstrap_ci95(values, np.zeros(2000, int), "images", samples=4000)
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.08)


def test_angles_wrap():
    errors = metrics.euler_errors_deg(np.array([[179.0, 10, -5]]), np.array([[-179.0, -10, -5]]))
    np.testing.assert_allclose(errors, [[2, 20, 0]])


@given(st.floats(0, 179.9), st.integers(0, 1000))
def test_geodesic_angle_of_a_turn(angle, seed):
    from scipy.spatial.transform import Rotation

    start = Rotation.random(rng=np.random.default_rng(seed))
    axis = Rotation.random(rng=np.random.default_rng(seed + 1)).as_matrix()[0]
    turned = Rotation.from_rotvec(np.radians(angle) * axis) * start
    value = metrics.geodesic_deg(turned.as_matrix()[None], start.as_matrix()[None])
    np.testing.assert_allclose(value, [angle], atol=1e-4)


def test_similarity_undoes_a_similarity_and_rigid_keeps_size():
    from scipy.spatial.transform import Rotation

    x = faces()
    turn = Rotation.from_euler("xyz", [10, 40, -20], degrees=True).as_matrix()
    y = 1.7 * x @ turn.T + [3, -9, 40]
    np.testing.assert_allclose(align_similarity(x, y), y, atol=1e-8)
    rigid = align_similarity(x, y, scale=False)
    np.testing.assert_allclose(
        np.ptp(rigid[:, 0] - rigid[:, 1]), np.ptp((x @ turn.T)[:, 0] - (x @ turn.T)[:, 1])
    )
    np.testing.assert_allclose(rigid.mean(axis=1), y.mean(axis=1))
    np.testing.assert_allclose(align_similarity(x[2], y[2]), align_similarity(x, y)[2], atol=1e-9)


def test_depth_alignment_is_idempotent():
    points = faces()
    for how in ("min", "mean", "none"):
        once = align_depth(points, how)
        np.testing.assert_allclose(align_depth(once, how), once, atol=1e-12)


def test_paired_interval_is_narrow_where_hard_images_are_hard_for_both():
    rng = np.random.default_rng(3)
    hard = rng.gamma(2, 2, 900)
    first, second = hard + rng.normal(0, 0.1, 900), hard + 0.05 + rng.normal(0, 0.1, 900)
    bins = np.arange(900) % 3
    found = metrics.paired_difference(first, second, bins, "bins")
    assert found.value == pytest.approx(
        metrics.pooled(first, bins, "bins") - metrics.pooled(second, bins, "bins")
    )
    assert found.significant and found.ci95[0] < found.value < found.ci95[1] < 0
    alone = metrics.bootstrap_ci95(first, bins, "bins")
    assert found.ci95[1] - found.ci95[0] < 0.2 * (alone[1] - alone[0])


def test_a_system_does_not_differ_from_itself_and_antisymmetry_holds():
    values = np.random.default_rng(0).gamma(2, 2, 90)
    bins = np.arange(90) % 3
    same = metrics.paired_difference(values, values, bins, "bins")
    assert same.value == 0 and same.ci95 == (0, 0) and not same.significant
    other = np.random.default_rng(1).permutation(values)
    ab = metrics.paired_difference(values, other, bins, "images")
    ba = metrics.paired_difference(other, values, bins, "images")
    assert ab.value == pytest.approx(-ba.value)
    assert ab.ci95 == pytest.approx((-ba.ci95[1], -ba.ci95[0]))


def test_pairs_without_both_values_do_not_count():
    first, second = np.array([1.0, np.nan, 3.0]), np.array([0.0, 1.0, np.nan])
    found = metrics.paired_difference(first, second, np.zeros(3, int), "images")
    assert found.value == 1 and found.images == 1


def test_identity_ratio_is_that_of_the_variances():
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(400), 5)
    centres = rng.normal(0, 2, (400, 8))
    codes = centres[person] + rng.normal(0, 1, (2000, 8))
    assert metrics.identity_ratio(codes, person) == pytest.approx(4.0, rel=0.12)
    assert metrics.identity_ratio(codes, rng.permutation(person)) < 0.1
    assert metrics.identity_ratio(centres[person], person) == float("inf")
    assert metrics.identity_ratio(7 * codes + 3, person) == pytest.approx(
        metrics.identity_ratio(codes, person)
    )
    with pytest.raises(ValueError, match="two people"):
        metrics.identity_ratio(codes[:3], np.array([0, 0, 1]))


def people_photos(between: float, within: float, photos, count: int, seed: int = 0):
    """Codes (n, 3) of people, a photo each row, and whose they are."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(count), photos)
    own = rng.normal(0, between, (count, 3))[person]
    order = rng.permutation(len(person))
    return (own + rng.normal(0, within, own.shape))[order], 10 * person[order]


@pytest.mark.parametrize("photos", [2, 5, np.arange(4000) % 7 + 1], ids=["two", "five", "mixed"])
@pytest.mark.parametrize(("between", "within"), [(2.0, 1.0), (1.0, 1.0), (1.0, 3.0)])
def test_identity_ratio_does_not_depend_on_the_number_of_photos(between, within, photos):
    found = metrics.identity_ratio(*people_photos(between, within, photos, 4000))
    assert found == pytest.approx((between / within) ** 2, rel=0.1, abs=0.02)


def test_noise_tells_nobody():
    noise = [metrics.identity_ratio(*people_photos(0.0, 1.0, 2, 500, seed)) for seed in range(8)]
    assert np.mean(noise) < 0.03, "not the 1 / photos that the noise of means would give"


def test_people_of_a_single_photo_tell_nothing():
    rows, person = people_photos(2.0, 1.0, 4, 300)
    strangers = np.random.default_rng(1).normal(0, 50, (40, 3))
    more = np.concatenate((rows, strangers)), np.concatenate((person, 100_000 + np.arange(40)))
    assert metrics.identity_ratio(*more) == pytest.approx(metrics.identity_ratio(rows, person))


def test_errors_of_images_survive_packing():
    values = np.array([1.2344, np.nan, 10.0, np.inf])
    again = metrics.unpacked(metrics.packed(values))
    np.testing.assert_allclose(again, [1.234, np.nan, 10.0, np.nan], atol=1e-9)


def test_large_sets_are_drawn_in_parts_with_the_same_interval(monkeypatch):
    values = np.random.default_rng(5).gamma(2, 2, 300)
    shared = metrics.bootstrap_ci95(values, np.zeros(300, int), "images")
    monkeypatch.setattr(metrics, "_SHARED_DRAWS", 7 * 300)
    parts = metrics.bootstrap_ci95(values, np.zeros(300, int), "images")
    np.testing.assert_allclose(parts, shared, atol=0.02)


def test_interval_is_that_of_drawing_images_again():
    """The counts of the fast path are those of indices drawn with replacement."""
    values = np.random.default_rng(5).gamma(2, 2, 40)
    low, high = metrics.bootstrap_ci95(values, np.zeros(40, int), "images", samples=8000)
    rng = np.random.default_rng(9)
    means = [rng.choice(values, 40).mean() for _ in range(8000)]
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), atol=0.05)
