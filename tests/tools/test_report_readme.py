"""The README's tables say what the stored results say, and nothing where there are none."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report():
    return runpy.run_path(str(ROOT / "benchmarks" / "report_readme.py"))


@pytest.fixture(scope="module")
def published():
    return json.loads((ROOT / "benchmarks" / "published.json").read_text(encoding="utf-8"))


def landmarks(value: float) -> dict:
    flags = {"gt": "original", "points": 68, "dims": 2, "pool": "bins"}
    number = {"metric": "nme_percent", "flags": flags, "value": value, "ci95": [1, 9], "bins": {}}
    return {"images": 7, "numbers": [number], "misses": {"total": 0}}


def test_methods_without_results_have_dashes(report):
    rows = report["method_rows"]({})
    assert all(row[3:] == ["-", "-"] for row in rows)
    assert {"pgn", "dasl", "fitting", "retexture", "rafare"} == {
        row[0].split("docs/methods/")[1].split(".md")[0] for row in rows if "methods" in row[0]
    }
    assert {"eyes", "mouth"} <= {row[0].removeprefix("[").split("]")[0] for row in rows}


def test_numbers_are_those_of_the_results(report):
    results = {
        "aflw2000-dev-open-pgn-official": landmarks(4.321),
        "retexture-research": {
            "synthetic": {
                "methods": {
                    "retexture-research": {
                        "spread_ratio": {"mean": 0.254}, "relight_psnr_db": {"mean": 20.0},
                    },
                    "photo": {"relight_psnr_db": {"mean": 21.5}},
                }
            }
        },
        "eyes": {
            "renders": {
                "systems": [
                    {"shut, called shut": 0.0, "gaze_deg": {"value": 13.5}},
                    {"shut, called shut": 0.862, "gaze_deg": {"value": 7.06}},
                ]
            }
        },
        "mouth": {
            "renders": {"systems": [{"shut, look closed": 0.84}, {"shut, look closed": 0.977}]}
        },
        "rafare-open": {
            "systems": {
                name: {"z": {"cd_mm": {"mean": mm}, "normal_angle_deg": {"mean": 10 * mm}}}
                for name, mm in (("base+fine+norm", 1.0), ("parametric head", 2.0))
            }
        },
    }  # fmt: skip
    rows = [row[3:] for row in report["method_rows"](results)]
    assert rows[0] == ["4.32", "-"]
    assert rows[3:5] == [["86 % (0 %)", "-"], ["7.1 (13.5)", "-"]]
    assert rows[5] == ["98 % (84 %)", "-"]
    assert rows[6:8] == [["-", "0.25"], ["-", "-1.5"]]
    assert rows[8:] == [["1.00 (2.00)", "-"], ["10.0 (20.0)", "-"]]


def test_peers_have_a_source_and_the_published_number(report, published):
    rows = report["peer_rows"](published, {"aflw2000-dev-research-pgn-official": landmarks(3.9)})
    assert all("https://" in row[0] for row in rows[:-1])
    assert rows[-1][0].endswith("`research`") and rows[-1][1] == "**3.90** (7 of the photos)"
    said = {row[0].split("]")[0][1:]: row[1] for row in rows}
    assert said["3DDFA_V2"].startswith("3.79") and said["DECA"] == "-"
    named = {peer["number"] for peer in published["peers"]["rows"]} - {""}
    known = {row["method"] for table in published["tables"] for row in table["rows"]}
    assert named <= known
