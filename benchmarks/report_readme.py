"""The README's tables: the methods with what was measured of them, and other systems."""

from __future__ import annotations

from typing import Any

from lifemask.evaluation.report import one_number, table

Result = dict[str, Any]
FAMILIES = ("open", "research")
PHOTOS = "AFLW2000-3D"
METHOD_HEAD = ("method", "what it finds", "measured", "`open`", "`research`")
PEER_HEAD = ("system", f"NME %, {PHOTOS}", "runs on", "gives", "licence")


def method_rows(results: dict[str, Result]) -> list[list[str]]:
    """One row per method: what it finds and what was measured, both families of weights."""

    def landmarks(name: str) -> list[str]:
        files = (f"aflw2000-dev-{weights}-{name}-official" for weights in FAMILIES)
        values = [f"{_nme(results[f]):.2f}" if f in results else "-" for f in files]
        return ["landmarks, NME %", *values]

    rows = [
        ["[PGN](docs/methods/pgn.md), the default", "pose, shape, expression", *landmarks("pgn")],
        ["[2DASL](docs/methods/dasl.md)", "pose, shape, expression", *landmarks("dasl-detector")],
        ["[fitter](docs/methods/fitting.md)", "the same, from landmarks", *landmarks("fit")],
    ]
    shut, gaze = _eyes(results)
    rows += [["[eyes](docs/eyes.md)", "lids, gaze", "shut eyes called shut (PGN alone)", *shut]]
    rows += [["", "", "gaze, degrees (PGN alone)", *gaze]]
    name = "[mouth](docs/mouth.md)"
    rows += [[name, "lips", "shut mouths that look shut (PGN alone)", *_mouth(results)]]
    light, gain = _appearance(results)
    name = "[re-renderable texture](docs/methods/retexture.md)"
    rows += [[name, "albedo without light", "light left in it, share of the photo's", *light]]
    rows += [["", "", "relighting, dB above the photo's texture", *gain]]
    surface, normals = _surface(results)
    name = "[RAFaRe](docs/methods/rafare.md)"
    rows += [[name, "surface without a model", "mm to the truth (PGN's head)", *surface]]
    rows += [["", "", "normals, degrees (PGN's head)", *normals]]
    return rows


def _eyes(results: dict[str, Result]) -> tuple[list[str], list[str]]:
    """Shut eyes and gaze with the eye reader and without, measured with open weights only."""
    if "eyes" not in results:
        return ["-", "-"], ["-", "-"]
    alone, read = results["eyes"]["renders"]["systems"]
    shut = [f"{100 * row['shut, called shut']:.0f} %" for row in (read, alone)]
    gaze = [f"{row['gaze_deg']['value']:.1f}" for row in (read, alone)]
    return [f"{shut[0]} ({shut[1]})", "-"], [f"{gaze[0]} ({gaze[1]})", "-"]


def _mouth(results: dict[str, Result]) -> list[str]:
    """Shut mouths with the mouth reader and without, measured with open weights only."""
    if "mouth" not in results:
        return ["-", "-"]
    alone, read = results["mouth"]["renders"]["systems"]
    shut = [f"{100 * row['shut, look closed']:.0f} %" for row in (read, alone)]
    return [f"{shut[0]} ({shut[1]})", "-"]


def peer_rows(published: Result, results: dict[str, Result]) -> list[list[str]]:
    """One row per system: landmarks, what it asks for, what it gives, its licences."""
    numbers = _published_means(published)
    rows = []
    for peer in published["peers"]["rows"]:
        said = numbers.get(peer["number"], "-")
        name = f"[{peer['system']}]({peer['source']})"
        rows.append([name, said, peer["runs"], peer["gives"], peer["licence"]])
    for weights in FAMILIES:
        result = results.get(f"aflw2000-dev-{weights}-pgn-official")
        if result is None:
            continue
        free = "Apache-2.0, code, model and weights" if weights == "open" else "research only"
        rows.append(
            [
                f"**lifemask**, `{weights}`",
                f"**{_nme(result):.2f}** ({result['images']} of the photos)",
                "CPU",
                "whole head, UV albedo, normal map, 52 blendshapes, light, GLB",
                free,
            ]
        )
    return rows


def method_lines(results: dict[str, Result]) -> list[str]:
    """The table of methods."""
    return [*table(METHOD_HEAD, method_rows(results)), ""]


def peer_lines(published: Result, results: dict[str, Result]) -> list[str]:
    """The table of systems, and what of it can be compared."""
    peer = results.get("aflw2000-dev-mediapipe-face-mesh")
    lines = [*table(PEER_HEAD, peer_rows(published, results)), ""]
    if peer is not None:
        number = _number(peer)
        lines += [
            f"On the same {peer['images']} photos as ours, MediaPipe misses"
            f" {peer['misses']['total']} faces and has {number['value']:.2f} %"
            f" ({number['value_found_only']:.2f} % on those it finds).",
            "",
        ]
    return lines


def _nme(result: Result) -> float:
    return _number(result)["value"]


def _number(result: Result) -> Result:
    return one_number(result, gt="original", points=68, dims=2, pool="bins")


def _published_means(published: Result) -> dict[str, str]:
    """Means over the bins by method, with the photos they come from."""
    (rows,) = (
        t["rows"]
        for t in published["tables"]
        if t["table"].startswith("AFLW2000-3D, 68 points, 2D NME %, original truth")
    )
    return {
        row["method"]: f"{row['values']['mean']:.2f} ({row['source'].split(';')[-1].strip()})"
        for row in rows
        if row["mark"].startswith("measured")
    }


def _appearance(results: dict[str, Result]) -> tuple[list[str], list[str]]:
    light, gain = [], []
    for weights in FAMILIES:
        result = results.get(f"retexture-{weights}", {})
        methods = result.get("synthetic", {}).get("methods", {})
        own = methods.get(f"retexture-{weights}")
        if own is None:
            light.append("-")
            gain.append("-")
            continue
        light.append(f"{own['spread_ratio']['mean']:.2f}")
        relit = own["relight_psnr_db"]["mean"] - methods["photo"]["relight_psnr_db"]["mean"]
        gain.append(f"{relit:+.1f}")
    return light, gain


def _surface(results: dict[str, Result]) -> tuple[list[str], list[str]]:
    distance, normals = [], []
    for weights in FAMILIES:
        result = results.get(f"rafare-{weights}")
        if result is None:
            distance.append("-")
            normals.append("-")
            continue
        full, head = (result["systems"][n]["z"] for n in ("base+fine+norm", "parametric head"))
        distance.append(f"{full['cd_mm']['mean']:.2f} ({head['cd_mm']['mean']:.2f})")
        angles = [one["normal_angle_deg"]["mean"] for one in (full, head)]
        normals.append(f"{angles[0]:.1f} ({angles[1]:.1f})")
    return distance, normals
