"""Random people pull faces: identity and ARKit expressions of the head model, no photo needed.

python examples/blendshapes.py faces.png
"""

import sys

import torch
from PIL import Image

import lifemask
from lifemask.head import Head, render_head, to_picture, view_camera
from lifemask.types import Face, Geometry

SIZE_PX = 224
SMILE = {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}
EXPRESSIONS = ({}, {"jawOpen": 0.6}, SMILE, {"eyeBlinkLeft": 1.0, "browInnerUp": 0.8})


def main(out: str) -> None:
    """Draw three people with four expressions as grey clay."""
    model, generator = lifemask.load_face_model(), torch.Generator().manual_seed(3)
    sheet = Image.new("RGB", (SIZE_PX * len(EXPRESSIONS), SIZE_PX * 3))
    for row in range(3):
        identity = torch.randn(model.identity_size, generator=generator).clamp(-2, 2)
        for column, active in enumerate(EXPRESSIONS):
            values = [active.get(name, 0.0) for name in model.expression_names]
            vertices_mm = model(identity, torch.tensor(values))
            camera = view_camera(vertices_mm, SIZE_PX, yaw_deg=-25)
            geometry = Geometry(vertices_mm, model.topology.faces, camera)
            head = Head(Face((0, 0, 1, 1), 1.0), geometry, None, (SIZE_PX, SIZE_PX), "open")
            drawn = to_picture(*render_head(head, camera, SIZE_PX, SIZE_PX, clay=True))
            sheet.paste(drawn, (column * SIZE_PX, row * SIZE_PX))
    sheet.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
