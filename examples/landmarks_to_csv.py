"""A folder of photos as one table: pose, 52 expressions, 68 landmarks per face.

python examples/landmarks_to_csv.py photos/ faces.csv
"""

import csv
import sys
from pathlib import Path

import lifemask

PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
PIPELINE = lifemask.PipelineConfig(faces="all", refine=False, texture="none")  # numbers only


def main(folder: str, out: str) -> None:
    """Write a row per face; a photo that cannot be used is named and skipped."""
    pipeline, rows = lifemask.Pipeline(PIPELINE), []
    for photo in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PHOTOS):
        try:
            heads = pipeline(photo)
        except lifemask.UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        for number, head in enumerate(heads, start=1):
            row = {"photo": photo.name, "face": number, **head.pose_deg, **head.expression}
            for k, (u, v) in enumerate(head.landmarks68_px):
                row |= {f"u{k}_px": u, f"v{k}_px": v}
            rows.append(row)
    with Path(out).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["photo"])
        table.writeheader()
        table.writerows(rows)
    print(f"{out}: {len(rows)} faces")


if __name__ == "__main__":
    main(*sys.argv[1:])
