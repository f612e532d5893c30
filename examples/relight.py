"""One portrait in several lights and from several sides, as a contact sheet.

    python examples/relight.py relit.png [photo.jpg]

Without a photo it takes scikit-image's portrait of an astronaut (NASA, public domain).
"""

from __future__ import annotations

import sys

from PIL import Image

import lifemask
from lifemask.graphics.lighting import STUDIO_LIGHTS

SIZE_PX = 256
YAWS_DEG = (-40, 0, 40)


def main(out: str, photo: str | None = None) -> None:
    """Reconstruct, relight, turn, and save the sheet."""
    if photo is None:
        from skimage import data

        head = lifemask.reconstruct(data.astronaut())
    else:
        head = lifemask.reconstruct(photo)
    sheet = Image.new("RGB", (SIZE_PX * len(YAWS_DEG), SIZE_PX * len(STUDIO_LIGHTS)))
    for row, light in enumerate(STUDIO_LIGHTS):
        relit = head.relight(light)
        for column, yaw_deg in enumerate(YAWS_DEG):
            picture = relit.render(size=SIZE_PX, yaw_deg=yaw_deg)
            sheet.paste(picture, (column * SIZE_PX, row * SIZE_PX))
    sheet.save(out)
    print(f"{out}: {', '.join(STUDIO_LIGHTS)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
