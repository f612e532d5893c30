"""Report pages: tables, curves and published numbers come from stored results alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from lifemask.evaluation import metrics, report

ROOT = Path(__file__).resolve().parents[2]
BINS = "000111222"


def result(shift=0.0, system="ours", dataset="set", points=68, key="nme_68"):
    values = np.arange(9.0) + 1 + shift
    bins = np.array([int(b) for b in BINS])
    flags = {"gt": "original", "points": points, "dims": 2, "pool": "bins", "misses": 1}
    entry = {"metric": "nme_percent", "flags": flags} | metrics.summary(values, bins, "bins")
    return {
        "dataset": dataset,
        "system": system,
        "protocol": "aflw2000",
        "images": 9,
        "misses": {"total": 1},
        "numbers": [entry],
        "checks": [{"check": "mirrored photo", "suspicious": shift > 5, "message": "look"}],
        "per_image": {"bins": BINS, key: metrics.packed(values)},
    }


def test_differences_are_paired_and_signed():
    scored = {"a": result(0.5, "worse"), "b": result(0.0, "peer"), "c": result(0.0, "same")}
    rows = report.difference_rows(scored, "b")
    assert rows[0] == ["worse", *["+0.50 (+0.50 to +0.50)"] * 2]
    assert rows[1] == ["same", *["+0.00 (+0.00 to +0.00): none shown"] * 2]


def test_faces_that_one_missed_are_left_out_of_the_second_difference():
    better = result(0.0, "better")
    peer = result(0.0, "peer")
    values = metrics.unpacked(peer["per_image"]["nme_68"])
    values[[0, 4]] += 30  # a miss
    peer["per_image"] |= {"nme_68": metrics.packed(values), "found": "011101111"}
    ((_, everything, found),) = report.difference_rows({"a": better, "b": peer}, "b")
    assert everything.startswith("-6.67 (") and found == "+0.00 (+0.00 to +0.00): none shown"


def test_one_chart_per_data_set_and_point_set_with_the_protocols_mean():
    scored = {
        "a": result(0, "ours"),
        "b": result(1, ["open", "fit", "official"]),
        "c": result(0, "ours", dataset="other", key="nme_21"),
        "speed": {"stages": []},
    }
    charts = report.curves(scored)
    assert sorted(charts) == ["other-nme_21", "set-nme_68"]
    svg = charts["set-nme_68"].svg()
    assert "ours  5.00" in svg and "open fit official  6.00" in svg


def test_meshes_have_a_curve_that_ends_below_the_failures():
    item = {"names": ["a", "b", "c", "d"], "distance_mm": [1.0, 2.0, 3.0, None]}
    scored = {"m": {"protocol": "now", "system": "mesh maker", "numbers": [], "per_item": item}}
    charts = report.curves(scored)
    assert list(charts) == ["now-distance_mm"]
    curve = [s for s in charts["now-distance_mm"].shapes if getattr(s, "width", 0) == 2.2]
    top, bottom = 52.0, 440 - 54.0
    share = (bottom - curve[0].points[-1][1]) / (bottom - top)
    assert share == pytest.approx(0.75, abs=0.01)
    assert "mesh maker  2.00" in charts["now-distance_mm"].svg()


def test_suspicions_are_shown():
    scored = {"a": result(9, "strange"), "b": result(0, "sound")}
    assert report.suspicion_rows(scored) == [["strange", "mirrored photo", "look"]]


def test_published_tables_show_ours_only_where_the_flags_agree():
    published = json.loads((ROOT / "benchmarks" / "published.json").read_text(encoding="utf-8"))
    text = "\n".join(report.published_lines(published, "aflw2000", {"a": result(0, "ours")}))
    assert text.count("**ours**") == 1  # 68 points, original truth, bins; not 51, not re-annotated
    assert "| **ours** | 2.00 | 5.00 | 8.00 | 5.00 | ours, set, 9 images, 1 missed |" in text
    assert (
        "| 3DDFA_V2 mb05 | 2.93 | 3.67 | 4.78 | 3.79 | measured: 2,000 images, no misses |" in text
    )


def test_published_head_pose_stands_beside_ours_over_the_same_photos():
    published = json.loads((ROOT / "benchmarks" / "published.json").read_text(encoding="utf-8"))
    ours = result(0, "ours")
    flags = {"images": "angles <= 99", "pool": "images"}
    names = {"yaw": 1.0, "pitch": 2.0, "roll": 3.0, "mean_euler": 2.0}
    for name, value in names.items():
        for images, more in (("angles <= 99", 0.0), ("all", 5.0)):
            entry = {"metric": f"{name}_error_deg", "flags": flags | {"images": images}}
            ours["numbers"].append(entry | {"value": value + more, "images": 7})
    text = "\n".join(report.published_lines(published, "aflw2000", {"a": ours}))
    assert "| **ours** | 1.00 | 2.00 | 3.00 | 2.00 | ours, set, 7 images, 1 missed |" in text
    ours["numbers"].pop(-2)  # without its mean over the same photos it has no row there
    text = "\n".join(report.published_lines(published, "aflw2000", {"a": ours}))
    assert "ours, set, 7 images" not in text and "| 6DRepNet | 3.63 | 4.91 | 3.37 | 3.97 |" in text


def test_every_published_number_has_a_mark_and_known_columns():
    published = json.loads((ROOT / "benchmarks" / "published.json").read_text(encoding="utf-8"))
    marks = {"secondary", "measured", "recomputed", "code"}
    for table in published["tables"]:
        for row in table["rows"]:
            assert row["mark"] in marks and row["values"].keys() <= set(table["columns"])
    mb05 = published["tables"][0]["rows"][-2]
    assert mb05["method"] == "3DDFA_V2 mb05"
    bins = [mb05["values"][k] for k in ("0-30", "30-60", "60-90")]
    assert np.mean(bins) == pytest.approx(mb05["values"]["mean"], abs=0.005)


def test_any_protocol_has_a_plain_table():
    ours, theirs = result(0, "ours"), result(1, "theirs")
    ours["numbers"].append({"metric": "m", "flags": {"gt": "original", "dims": 3}, "value": None})
    lines = report.score_lines({"a": ours, "b": theirs})
    low, high = result()["numbers"][0]["ci95"]
    assert lines[0] == "All numbers (95 % interval): gt original."
    assert lines[2] == "| number | flags | ours (9, 1 missed) | theirs (9, 1 missed) |"
    interval = f"5.00 ({low:.2f}-{high:.2f})"
    other = f"6.00 ({low + 1:.2f}-{high + 1:.2f})"
    assert lines[4] == f"| nme_percent | points 68, dims 2, pool bins | {interval} | {other} |"
    assert lines[5] == "| m | dims 3 | - | - |"


def test_controls_stand_beside_the_numbers_they_belong_to():
    ours = result(0, "ours")
    flags = {"points": 68, "dims": 2}
    ours["controls"] = {"mean head": [{"metric": "nme_percent", "flags": flags, "value": 9.0}]}
    lines = report.score_lines(report.flattened({"a": ours}))
    assert lines[2].endswith("| ours (9, 1 missed) | ours: mean head (9) |")
    assert lines[4].endswith("| 9.00 |")


def test_a_file_of_several_systems_is_several_results():
    stored = {"protocol": "scans", "command": "c", "systems": {"a": result(), "b": result(1)}}
    flat = report.flattened({"scans": stored, "speed": {"stages": []}})
    assert sorted(flat) == ["scans, a", "scans, b", "speed"]
    assert flat["scans, b"]["command"] == "c" and report.system_name(flat["scans, a"]) == "ours"


def test_a_number_is_found_by_its_flags_or_refused():
    one = report.one_number(result(), points=68)
    assert one["value"] == 5
    with pytest.raises(ValueError, match="0 numbers"):
        report.one_number(result(), points=51)


def test_a_system_without_a_name_is_called_by_its_meta_or_file():
    meta = {"system": "x 1.0", "method": "fit", "box": "official"}
    assert report.system_name({"predictions": {"meta": meta}}) == "x 1.0 fit official"
    assert report.system_name({"predictions": {"file": "p.npz", "meta": {}}}) == "p.npz"
