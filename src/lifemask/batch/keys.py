"""Keys of photos: what outputs are called, one per photo, the same in every run."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

MAX_PART_BYTES = 180
MAX_KEY = 600
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"\\|?*.]')


def plain_key(path: str) -> str:
    """A path as a key: usable as a folder on any system and in a tar.

    Dots become underscores, as WebDataset ends a key at the first dot; so does what some file
    system refuses. Folders stay, with "/".

    Args:
        path: relative, with "/", without the ending of the file.
    """
    parts = [part for part in path.split("/") if part not in ("", "..", ".")]
    return "/".join(map(_plain_part, parts)) or "photo"


def short_hash(text: str) -> str:
    """Eight hex digits that stand for a text."""
    return hashlib.sha1(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


class Keys:
    """Hands out keys so that no two are equal, on file systems that ignore case too.

    A key is never the folder of another, so that each may be a folder of its own.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        """Start with keys that earlier runs gave."""
        self._keys: set[str] = set()
        self._folders: set[str] = set()
        for key in taken:
            self._take(key)

    def give(self, wanted: str, source: str) -> str:
        """A free key: the one wanted, else the same with a hash of the source behind it.

        Args:
            wanted: as `plain_key` makes it.
            source: what the photo is known by; equal photos in equal order get equal keys.
        """
        mark = short_hash(source)
        name = wanted.rpartition("/")[2]
        for key in (wanted, f"{wanted}-{mark}", f"{name}-{mark}"):
            if len(key) <= MAX_KEY and self._is_free(key):
                self._take(key)
                return key
        number = 2
        while not self._is_free(f"{name}-{mark}-{number}"):
            number += 1
        self._take(f"{name}-{mark}-{number}")
        return f"{name}-{mark}-{number}"

    def _is_free(self, key: str) -> bool:
        same = _same(key)
        if same in self._keys or same in self._folders:
            return False
        return not any(folder in self._keys for folder in _folders(same))

    def _take(self, key: str) -> None:
        same = _same(key)
        self._keys.add(same)
        self._folders.update(_folders(same))


def _plain_part(part: str) -> str:
    """A folder's name: safe anywhere, at most `MAX_PART_BYTES` long in UTF-8."""
    part = unicodedata.normalize("NFC", part).encode("utf-8", "replace").decode()
    part = _UNSAFE.sub("_", part).strip(" ") or "_"
    data = part.encode()
    if len(data) > MAX_PART_BYTES:
        start = data[: MAX_PART_BYTES - 9].decode("utf-8", "ignore").rstrip()
        part = f"{start}-{short_hash(part)}"
    return part


def _same(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()


def _folders(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]
