"""A tiny NoW in the official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from helpers.scan_shapes import landmarks7, lopsided_head, write_obj

PP = """<!DOCTYPE PickedPoints>
<PickedPoints>
 <DocumentData>
  <DateTime time="10:00:00" date="2018-04-24"/>
  <User name="user"/>
  <DataFileName name="scan.obj"/>
  <templateName name="new Template"/>
 </DocumentData>
{points}
</PickedPoints>
"""
NAMES = (
    "FaMoS_180424_03335_TA/multiview_neutral/IMG_0041",
    "FaMoS_180424_03335_TA/selfie/IMG_0060",
    "FaMoS_180425_03336_TA/multiview_expressions/IMG_0002",
)


def write_pp(path: Path, points: np.ndarray) -> None:
    """Seven picked points as MeshLab writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        f' <point x="{x:.9g}" y="{y:.9g}" z="{z:.9g}" name="{i}" active="1"/>'
        for i, (x, y, z) in enumerate(points)
    ]
    path.write_text(PP.format(points="\n".join(rows)), encoding="utf-8")


def write_now(root: Path, pictures: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Two people with the same lopsided head as scan, three photos; returns the scan."""
    vertices, faces = lopsided_head()
    root.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"{name}.jpg" for name in NAMES) + "\n"
    (root / "imagepathsvalidation.txt").write_text(lines, encoding="utf-8")
    for subject in {name.split("/")[0] for name in NAMES}:
        write_obj(root / "scans" / subject / "natural_head_rotation.000001.obj", vertices, faces)
        write_pp(
            root / "scans_lmks_onlypp" / subject / "natural_head_rotation.000001_picked_points.pp",
            landmarks7(vertices),
        )
    if pictures:
        for name in NAMES:
            photo = root / "NoW_Dataset/final_release_version/iphone_pictures" / f"{name}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.write_bytes(b"jpg")
    return vertices, faces
