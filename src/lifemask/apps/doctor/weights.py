"""Check of the weights: every file compared with its sha256, by licence family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lifemask.apps.doctor.finding import Finding
from lifemask.assets import Asset, verify, weights_folder

GROUP = "weights"
FAMILIES = {"open": "usable for anything", "research": "research use only"}


def weights() -> Iterator[Finding]:
    """The files of each family; those that are missing or damaged."""
    checked: dict[str, list[tuple[Asset, str, str]]] = {}
    for asset, file_name, problem in verify():
        checked.setdefault(asset.tag, []).append((asset, file_name, problem))
    if not any(a.package == "" for rows in checked.values() for a, _, _ in rows):
        yield Finding(GROUP, "weights", "broken", f"none in {weights_folder()}",
                      "install lifemask again, or set LIFEMASK_WEIGHTS")  # fmt: skip
    for tag, rows in sorted(checked.items()):
        for asset, file_name, problem in rows:
            if problem:
                # only the family open is needed by the defaults
                state = "broken" if tag == "open" else "note"
                yield Finding(GROUP, file_name, state, problem, asset.remedy)
        good = [(asset, name) for asset, name, problem in rows if not problem]
        if good:
            size = sum(_size(name) for asset, name in good if asset.package == "")
            names = sorted({asset.name for asset, _ in good})
            text = f"{len(good)} files, {size / 1e6:.1f} MB, sha256 as in their cards"
            yield Finding(GROUP, tag, "ok", f"{text}; {FAMILIES.get(tag, '')}",
                          values={"files": [name for _, name in good], "assets": names,
                                  "bytes": size})  # fmt: skip


def _size(name: str) -> int:
    path: Path = weights_folder() / name
    return path.stat().st_size if path.is_file() else 0
