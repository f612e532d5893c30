"""Charts: positions, ticks, gaps and shares are those of the data; both ways to draw agree."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lifemask.assets import UserError
from lifemask.evaluation.canvas import Canvas, Line, Rectangle, Words
from lifemask.evaluation.charts import (
    Axis,
    Series,
    cumulative_canvas,
    cumulative_error_curve,
    cumulative_shares,
    line_canvas,
    line_chart,
    nice_ticks,
    save_canvas,
    tick_text,
)

LABELS = {"x_label": "step", "y_label": "loss", "title": "A & B <run>"}
SVG = "{http://www.w3.org/2000/svg}"


def curves(svg, color):
    lines = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    found = [e for e in lines if e.get("stroke") == color and e.get("stroke-width") == "2.2"]
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in found]


def words(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_points_lie_where_the_scales_put_them():
    svg = line_chart({"a": ([0, 5, 10], [0, 1, 4])}, x_range=(0, 10), y_range=(0, 4), **LABELS)
    ((first, middle, last),) = curves(svg, "#2f6db5")
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.02)
    assert middle[1] == pytest.approx(first[1] + (last[1] - first[1]) / 4, abs=0.02)
    assert first[1] > last[1]  # v points down


def test_titles_and_names_are_escaped_and_complete():
    svg = line_chart([Series("x < y", [1, 2], [3, 4]), Series("b", [1], [2])], **LABELS)
    assert {"A & B <run>", "step", "loss", "x < y", "b"} <= set(words(svg))


def test_the_same_data_gives_the_same_text():
    a = line_chart({"a": ([1, 2], [3, 4])}, **LABELS)
    assert a == line_chart([Series("a", np.array([1, 2]), np.array([3.0, 4]))], **LABELS)


def test_values_that_are_not_finite_leave_a_gap():
    svg = line_chart({"a": (range(5), [1, 2, np.nan, 4, 5])}, **LABELS)
    assert [len(piece) for piece in curves(svg, "#2f6db5")] == [2, 2]


def test_log_scale_is_logarithmic_and_leaves_out_what_has_no_logarithm():
    svg = line_chart({"a": (range(4), [0, 1, 10, 100])}, y_scale="log", **LABELS)
    ((a, b, c),) = curves(svg, "#2f6db5")
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.02)
    assert np.isnan(Axis(1, 10, 0, 1, "log").at(-1.0))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_few_and_inside(low, span):
    ticks = nice_ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    slack = 1e-6 * span
    assert ticks[0] >= low - slack and ticks[-1] <= low + span + slack


@given(st.floats(1e-6, 1e3), st.floats(1.05, 1e9))
def test_log_ticks_are_few_and_inside(low, ratio):
    ticks = nice_ticks(low, low * ratio, "log")
    assert 1 <= len(ticks) <= 12
    assert min(ticks) >= low * (1 - 1e-6) and max(ticks) <= low * ratio * (1 + 1e-6)


def test_tick_labels():
    values = (0, 0.05, -2.5, 20, 1500, 15000, 2e6, 1e-4, 0.30000000000000004)
    expected = ["0", "0.05", "-2.5", "20", "1500", "15k", "2M", "1e-4", "0.3"]
    assert [tick_text(v) for v in values] == expected


def test_long_series_are_thinned_without_losing_their_extremes():
    y = np.random.default_rng(0).normal(size=50_000)
    y[31_234], y[777] = 30.0, -30.0
    svg = line_chart({"a": (np.arange(50_000), y)}, y_range=(-30, 30), **LABELS)
    (points,) = curves(svg, "#2f6db5")
    v = np.array(points)[:, 1]
    assert len(points) < 6000 and v.min() == 52 and v.max() == 440 - 54


def test_shares_are_the_empirical_distribution_and_failures_are_never_reached():
    errors = np.array([1.0, 2.0, 2.0, 7.0, np.nan, np.inf])
    x, share = cumulative_shares(errors, 10.0, steps=10)
    naive = [sum(1 for e in errors if np.isfinite(e) and e <= t) / 6 for t in x]
    np.testing.assert_allclose(share, naive)
    assert share[-1] == pytest.approx(4 / 6)


def test_cumulative_curve_shows_the_mean_or_the_given_number():
    errors = {"ours": [1.0, 3.0], "theirs": [2.0, np.nan]}
    assert {"ours  2.00", "theirs"} <= set(words(cumulative_error_curve(errors)))
    svg = cumulative_error_curve(errors, statistic={"ours": 2.5, "theirs": 4.0})
    assert {"ours  2.50", "theirs  4.00"} <= set(words(svg))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least one series"):
        line_chart([], **LABELS)
    with pytest.raises(ValueError, match="3 x and 2 y"):
        line_chart({"a": ([1, 2, 3], [1, 2])}, **LABELS)
    with pytest.raises(ValueError, match="finite point"):
        line_chart({"a": ([1], [np.nan])}, **LABELS)
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        save_canvas("chart.pdf", Canvas(10, 10))


def test_saved_files_are_whole_and_the_picture_shows_the_curve(tmp_path):
    canvas = cumulative_canvas({"ours": np.linspace(0, 12, 100)})
    svg = save_canvas(tmp_path / "new" / "c.svg", canvas)
    assert svg.read_text() == canvas.svg()
    with Image.open(save_canvas(tmp_path / "new" / "c.png", canvas)) as picture:
        assert picture.size == (2 * canvas.width, 2 * canvas.height)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    curve = next(s for s in canvas.shapes if isinstance(s, Line) and s.width == 2.2)
    for x, y in curve.points[40:-40:40]:
        np.testing.assert_allclose(pixels[round(2 * y), round(2 * x)], [0x2F, 0x6D, 0xB5], atol=40)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["c.png", "c.svg"]


def test_dashes_boxes_and_upright_words_are_painted_in_place():
    canvas = Canvas(60, 40)
    canvas.add(Rectangle(0, 0, 10, 40, "#ff0000"), Line(((10, 20), (60, 20)), "#0000ff", 4, 5))
    canvas.add(Words("I", (50, 40), 16, "#00aa00", upwards=True))
    pixels = np.asarray(canvas.image(1)).astype(int)
    assert (pixels[5, 2] == [255, 0, 0]).all()
    row = pixels[20, 12:58]
    blue = (row[:, 2] > 200) & (row[:, 0] < 90)
    assert 0.35 < blue.mean() < 0.75  # dashes and gaps
    assert (pixels[28:, 40:, 1] - pixels[28:, 40:, 0]).max() > 80


def test_line_canvas_is_what_the_text_shows():
    assert line_canvas({"a": ([1, 2], [3, 4])}, **LABELS).svg() == line_chart(
        {"a": ([1, 2], [3, 4])}, **LABELS
    )
