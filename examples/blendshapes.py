"""Random people pull faces: identity and ARKit expressions of the head model, no photo needed.

python examples/blendshapes.py faces.png
"""

from __future__ import annotations

import sys

import torch
from PIL import Image

import lifemask
from lifemask.graphics.lighting import linear_to_srgb, studio_light
from lifemask.graphics.render import render
from lifemask.head import view_camera

SIZE_PX = 224
EXPRESSIONS = (
    {},
    {"jawOpen": 0.6},
    {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9},
    {"eyeBlinkLeft": 1.0, "browInnerUp": 0.8},
)


def main(out: str) -> None:
    """Draw three people with four expressions as grey clay."""
    model = lifemask.load_face_model()
    generator = torch.Generator().manual_seed(3)
    sheet = Image.new("RGB", (SIZE_PX * len(EXPRESSIONS), SIZE_PX * 3))
    for row in range(3):
        identity = torch.randn(model.identity_size, generator=generator).clamp(-2, 2)
        for column, active in enumerate(EXPRESSIONS):
            values = [active.get(name, 0.0) for name in model.expression_names]
            vertices_mm = model(identity, torch.tensor(values))
            sheet.paste(clay(vertices_mm, model.topology.faces), (column * SIZE_PX, row * SIZE_PX))
    sheet.save(out)
    print(out)


def clay(vertices_mm: torch.Tensor, faces: torch.Tensor) -> Image.Image:
    """A head of vertices (v, 3) in mm as a picture, turned to image left."""
    fine_px = 2 * SIZE_PX  # two samples per pixel along each side
    camera = view_camera(vertices_mm, fine_px, yaw_deg=-25)
    drawn = render(
        vertices_mm[None],
        faces,
        camera,
        fine_px,
        fine_px,
        uvs=torch.zeros(1, 2),
        faces_uv=torch.zeros_like(faces),
        albedo=torch.full((1, 3, 1, 1), 0.5),
        lighting=studio_light("key"),
    )
    pixels = (linear_to_srgb(drawn.image[0].clamp(0, 1)) * 255).round().byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    return picture.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


if __name__ == "__main__":
    main(*sys.argv[1:])
