"""What tools that draw pages of faces share: a row of panels for each photo, in one picture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from lifemask.assets import UserError


def write_page(
    photos: Iterable[Path], row: Callable[[Path], list[Image.Image]], panel: int, out: Path
) -> None:
    """Draw and write a page; photos without a usable face are told and left out.

    Args:
        photos: a row each.
        row: the panels of a photo, squares of `panel` px.
        panel: side in px.
        out: of the picture.
    """
    rows = []
    for path in photos:
        try:
            rows.append(row(path))
        except UserError as error:
            sys.stderr.write(f"{path}: {error}\n")
    if not rows:
        sys.exit("error: none of the photos shows a usable face")
    page = Image.new("RGB", (panel * len(rows[0]), panel * len(rows)))
    for y, pictures in enumerate(rows):
        for x, picture in enumerate(pictures):
            page.paste(picture, (x * panel, y * panel))
    page.save(out)
