"""Where photos come from: folders, files, patterns, lists of paths and WebDataset shards."""

from __future__ import annotations

import csv
import glob
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lifemask.assets import UserError
from lifemask.batch.keys import Keys, plain_key

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic",
    ".heif", ".hif", ".avif",
)  # fmt: skip
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "photo")
RUN_FILE = "batch.json"


@dataclass(frozen=True, slots=True)
class Item:
    """A photo of a run.

    Attributes:
        key: what its outputs are called; see `keys`.
        path: of the file, absolute; of a shard's member, the shard.
        member: name in the shard; "" for a file.
        offset: of a member's bytes in the shard.
        size: of a member in bytes.
    """

    key: str
    path: str
    member: str = ""
    offset: int = 0
    size: int = 0

    @property
    def source(self) -> str:
        """What the photo is known by: its absolute path, of a member `SHARD!MEMBER`."""
        return source_of(self.path, self.member)

    @property
    def name(self) -> str:
        """File name, as records call the photo."""
        return PurePosixPath(self.member or Path(self.path).as_posix()).name


@dataclass
class Listing:
    """What sources hold.

    Attributes:
        items: the photos, each once, in order.
        skipped: how many files were passed over, by reason.
        repeated: photos that were named more than once.
    """

    items: list[Item] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A photo before it has its key; `wanted` is what the key is made of."""

    wanted: str
    path: str
    member: str = ""
    offset: int = 0
    size: int = 0


def source_of(path: str, member: str = "") -> str:
    """What a photo is known by."""
    return f"{path}!{member}" if member else path


def find_photos(
    sources: Sequence[str | Path],
    *,
    known: Mapping[str, str] | None = None,
    leave_out: Path | None = None,
    limit: int | None = None,
) -> Listing:
    """List the photos of some sources; reads no photo.

    A source is a folder (searched to its depth; hidden files, links to folders and folders of
    earlier runs are left out), a photo, a pattern such as `scans/*/front.png`, a list (`.txt`: a
    path per line, `#` starts a comment; `.csv`, `.tsv`: the column `path`, `file` or `image`, else
    the first; a column `key` gives keys; paths are relative to the list), or a WebDataset shard
    (`.tar`), whose samples give their first picture.

    The order is that of the sources; in a folder that of the names, its own photos first.

    Args:
        sources: at least one.
        known: keys that earlier runs gave, by `Item.source`.
        leave_out: a folder not to search: where the outputs go.
        limit: stop after so many photos.

    Raises:
        UserError: a source does not exist, is of no such kind, or is a damaged shard or list.
    """
    if not sources:
        raise UserError("no photos given: name a folder, files, a list or shards")
    given = known or {}
    listing, seen = Listing(), set()
    keys = Keys(given.values())
    for found in _all(sources, listing.skipped, leave_out and absolute(leave_out)):
        source = source_of(found.path, found.member)
        if source in seen:
            listing.repeated += 1
            continue
        if limit is not None and len(listing.items) == limit:
            break
        seen.add(source)
        key = given.get(source) or keys.give(plain_key(found.wanted), source)
        listing.items.append(Item(key, found.path, found.member, found.offset, found.size))
    return listing


def read_member(item: Item) -> bytes:
    """The bytes of a shard's member.

    Raises:
        OSError: the shard cannot be read, or is shorter than it was.
    """
    with Path(item.path).open("rb") as file:
        file.seek(item.offset)
        data = file.read(item.size)
    if len(data) != item.size:
        raise OSError(f"{item.path} is shorter than it was when it was listed")
    return data


def is_image(name: str) -> bool:
    """Whether a file's name ends like that of a picture."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def absolute(path: str | Path) -> Path:
    """The path from the root, without `..`, links as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _all(
    sources: Sequence[str | Path], skipped: Counter[str], leave_out: Path | None
) -> Iterator[_Found]:
    """Photos of all sources; single files together, so that their common folder is left out."""
    files: list[Path] = []
    several = len({str(s) for s in sources}) > 1
    for source in sources:
        text = str(Path(source).expanduser())
        path = absolute(text)
        if path.is_dir():
            yield from _folder(path, f"{path.name}/" if several else "", skipped, leave_out)
        elif not path.exists():
            yield from _matches(text, skipped)
        elif path.suffix.lower() == ".tar":
            yield from _shard(path, skipped)
        elif path.name.lower().endswith(PACKED):
            raise UserError(f"{text} is packed and cannot be read in place: unpack it first")
        elif path.suffix.lower() in LIST_SUFFIXES:
            yield from _list(path)
        elif is_image(path.name):
            files.append(path)
        else:
            raise UserError(f"{text} is no photo, list (.txt, .csv) or shard (.tar)")
    yield from _files(files)


def _matches(pattern: str, skipped: Counter[str]) -> Iterator[_Found]:
    """Photos that match a pattern, then those of shards that do."""
    if not glob.has_magic(pattern):
        raise UserError(f"{pattern} does not exist: name a folder, photos, a list or shards")
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute
    paths = [path for path in map(absolute, found) if path.is_file()]
    if not paths:
        raise UserError(f"no file matches {pattern}")
    shards = [path for path in paths if path.suffix.lower() == ".tar"]
    photos = [path for path in paths if is_image(path.name)]
    taken = {*shards, *photos}
    skipped.update(_ending(path.name) for path in paths if path not in taken)
    yield from _files(photos)
    for shard in shards:
        yield from _shard(shard, skipped)


def _files(paths: Iterable[Path], keys: Mapping[Path, str] | None = None) -> Iterator[_Found]:
    """Photos named one by one; their keys leave out the folder that all of them share."""
    chosen = list(paths)
    if not chosen:
        return
    try:
        shared = Path(os.path.commonpath([path.parent for path in chosen]))
    except ValueError:  # several drives
        shared = Path()
    for path in chosen:
        part = path.relative_to(shared) if path.is_relative_to(shared) else path.relative_to(
            path.anchor
        )  # fmt: skip
        yield _Found((keys or {}).get(path) or part.with_suffix("").as_posix(), str(path))


def _folder(
    root: Path, label: str, skipped: Counter[str], leave_out: Path | None
) -> Iterator[_Found]:
    def stop(error: OSError) -> None:
        raise UserError(f"cannot list {error.filename} ({error.strerror})")

    for folder, folders, names in os.walk(root, onerror=stop):
        here = Path(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and here / name != leave_out
        )
        if RUN_FILE in names:  # heads of another run
            skipped["folder of a run"] += 1
            folders.clear()
            continue
        part = "" if here == root else f"{here.relative_to(root).as_posix()}/"
        for name in sorted(names):
            if name.startswith("."):
                skipped["hidden"] += 1
            elif is_image(name):
                yield _Found(f"{label}{part}{name.rpartition('.')[0]}", f"{folder}{os.sep}{name}")
            else:
                skipped[_ending(name)] += 1


def _list(path: Path) -> Iterator[_Found]:
    """Photos of a text or CSV file, in its order."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(file, path.suffix.lower()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the list {path} ({error}); it is UTF-8 text") from error
    if not rows:
        raise UserError(f"the list {path} names no photo")
    keys: dict[Path, str] = {}
    for name, key in rows:
        keys.setdefault(_listed(path.parent, name), key)
    yield from _files(keys, keys)


def _rows(file: Iterable[str], suffix: str) -> Iterator[tuple[str, str]]:
    """(path, key or "") of each line."""
    if suffix not in (".csv", ".tsv"):
        lines = (line.strip() for line in file)
        yield from ((line, "") for line in lines if line and not line.startswith("#"))
        return
    rows = csv.reader(file, delimiter="\t" if suffix == ".tsv" else ",")
    table = ([cell.strip() for cell in row] for row in rows)
    column, key_column = 0, None
    for number, row in enumerate(row for row in table if any(row)):
        names = [cell.lower() for cell in row]
        if number == 0 and (head := [n for n in PATH_COLUMNS if n in names]):
            column = names.index(head[0])
            key_column = names.index("key") if "key" in names else None
        elif len(row) > column and row[column]:
            yield (
                row[column],
                "" if key_column is None else "".join(row[key_column : key_column + 1]),
            )


def _listed(folder: Path, name: str) -> Path:
    """A path of a list: from the list's folder, or from the current one if it is only there."""
    path, here = absolute(folder / Path(name).expanduser()), absolute(name)
    return here if not path.exists() and here.exists() else path


def _shard(path: Path, skipped: Counter[str]) -> Iterator[_Found]:
    """The picture of each sample of a tar; its members are found without reading them.

    Of several pictures that with a plain ending (`jpg` before `mask.png`) is taken, else the first.
    """
    pictures: dict[str, tuple[bool, _Found]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                vars(archive)["members"] = []  # it need not remember them
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not (member.isfile() and is_image(name)) or not stem:
                    continue
                sample, plain = f"{folder}/{stem}".lstrip("/"), "." not in ending
                old = pictures.get(sample)
                skipped["further picture of a sample"] += old is not None
                if old is None or (plain and not old[0]):
                    place = (str(path), member.name, member.offset_data, member.size)
                    pictures[sample] = plain, _Found(sample, *place)
            _check_end(path, archive.offset)
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"cannot read the shard {path} ({error}): mend it, or leave it out"
        ) from error
    yield from (found for _, found in pictures.values())


def _check_end(path: Path, offset: int) -> None:
    """Refuse a tar that goes on where its list of members ended: it is cut off, or damaged."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"damaged or cut off at byte {offset:,}")


def _ending(name: str) -> str:
    return Path(name).suffix.lower() or "no ending"
