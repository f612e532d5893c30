"""Several photos of one person: one identity, averaged textures, one head to animate.

python examples/one_person.py person.glb a.jpg b.jpg c.jpg
"""

import sys
from dataclasses import replace

import torch

import lifemask


def main(out: str, *photos: str) -> None:
    """Find what the photos share and write one neutral head."""
    heads = lifemask.reconstruct_person(photos)
    for photo, head in zip(photos, heads, strict=True):
        smile = head.expression["mouthSmileLeft"]
        print(f"{photo}: yaw {head.pose_deg['yaw']:+.0f} degrees, smile {smile:.2f}")
    first, model = heads[0], heads[0].model
    assert model is not None and first.appearance is not None and first.geometry.params is not None
    looks = [head.appearance for head in heads if head.appearance is not None]
    seen = torch.stack([v.visible.float() + 0.05 for v in looks if v.visible is not None])
    albedo = torch.stack([look.albedo for look in looks])
    if len(seen) == len(looks):  # what a photo shows counts more than what was completed
        albedo = (albedo * seen[:, None]).sum(0) / seen.sum(0)
    else:
        albedo = albedo.mean(0)
    params = first.geometry.params
    neutral = replace(params, expression=torch.zeros_like(params.expression))
    vertices_mm = model(neutral.identity, neutral.expression)
    geometry = replace(first.geometry, vertices_mm=vertices_mm, params=neutral, detail=None)
    person = replace(first, geometry=geometry, appearance=replace(first.appearance, albedo=albedo))
    person.export(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
