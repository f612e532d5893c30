"""Checks of Python packages: those needed, those of the extras, torch, onnxruntime, numba."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from lifemask.apps.doctor.finding import Finding

GROUP, EXTRAS_GROUP = "packages", "extras"
DEVELOPERS = ("dev",)
"""Extras that users do not need."""
USES = {
    "train": "training",
    "eval": "benchmarks on meshes",
    "scale": "ray clusters, shards",
    "build": "building the head model",
    "heic": "photos of iPhones",
    "video": ".mp4",
    "demo": "the web page",
}
PLAIN = re.compile(r"\s*([\w.-]+)\s*(?:\[[\w,\s.-]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([\w.-]+)['\"]")


@dataclass(frozen=True)
class Requirement:
    """A package that lifemask asks for.

    Attributes:
        name: of the package.
        minimum: the oldest version that will do; "" for any.
        extra: the extra that asks for it; "" for lifemask itself.
    """

    name: str
    minimum: str
    extra: str

    @property
    def text(self) -> str:
        """As pip takes it."""
        return f"{self.name}>={self.minimum}" if self.minimum else self.name


def requirements(lines: Sequence[str]) -> list[Requirement]:
    """What the metadata of a package asks for: `importlib.metadata.requires`."""
    found = []
    for line in lines:
        match = PLAIN.fullmatch(line)
        if match is None:
            continue
        name, bounds, marker = match[1], match[2], match[3] or ""
        minimum = re.search(r">=\s*([\w.]+)", bounds)
        extra = EXTRA.search(marker)
        found.append(Requirement(name, minimum[1] if minimum else "", extra[1] if extra else ""))
    return found


def problem(requirement: Requirement) -> str:
    """What is wrong with a package; nothing if it is there and new enough."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.minimum and numbers(found) < numbers(requirement.minimum):
        return f"{requirement.name} {found} is older than {requirement.minimum}"
    return ""


def numbers(text: str) -> tuple[int, ...]:
    """The release numbers of a version, without trailing zeros: "2.6.0+cpu" gives (2, 6)."""
    release = re.match(r"\d+(\.\d+)*", text.partition("!")[2] or text)
    parts = [int(p) for p in release[0].split(".")] if release else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def required() -> Iterator[Finding]:
    """The packages without which lifemask does not work."""
    try:
        asked = requirements(requires("lifemask") or [])
    except PackageNotFoundError:
        yield Finding(GROUP, "lifemask", "note", "runs from a folder that is not installed",
                      "pip install -e .")  # fmt: skip
        return
    needed = [r for r in asked if not r.extra]
    wrong = {r: text for r in needed if (text := problem(r))}
    for requirement, text in wrong.items():
        yield Finding(GROUP, requirement.name, "broken", text, f"pip install '{requirement.text}'")
    if not wrong:
        yield Finding(GROUP, "needed", "ok", f"all {len(needed)} are there and new enough",
                      values={r.name: version(r.name) for r in needed})  # fmt: skip


def extras() -> Iterator[Finding]:
    """What can be installed beside."""
    asked = requirements(requires("lifemask") or [])
    for extra in dict.fromkeys(r.extra for r in asked if r.extra and r.extra not in DEVELOPERS):
        mine = [r for r in asked if r.extra == extra]
        wrong = [text for r in mine if (text := problem(r))]
        for_what = USES.get(extra, "")
        text = for_what if not wrong else f"{for_what}: {', '.join(wrong)}".lstrip(": ")
        remedy = f"pip install 'lifemask[{extra}]'" if wrong else ""
        yield Finding(EXTRAS_GROUP, extra, "absent" if wrong else "ok", text, remedy,
                      {"missing": wrong})  # fmt: skip


def torch_devices() -> Iterator[Finding]:
    """torch, and where it can compute."""
    try:
        import torch
    except ImportError as error:
        yield Finding(GROUP, "torch", "broken", str(error), "pip install torch")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(torch.cuda.device_count())
        ]
    text = f"{torch.__version__} ({build} build), devices: {', '.join(devices)}"
    hidden = bool(torch.version.cuda) and len(devices) == 1
    values = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices,
              "threads": torch.get_num_threads()}  # fmt: skip
    yield Finding(GROUP, "torch", "note" if hidden else "ok", text,
                  "no CUDA device is seen; nvidia-smi tells more" if hidden else "",
                  values)  # fmt: skip


def onnx_providers() -> Iterator[Finding]:
    """onnxruntime, which runs the networks, and where it can."""
    try:
        import onnxruntime
    except ImportError as error:
        yield Finding(GROUP, "onnxruntime", "broken", str(error), "pip install onnxruntime")
        return
    providers = list(onnxruntime.get_available_providers())
    names = ", ".join(p.removesuffix("ExecutionProvider") for p in providers)
    fine = "CPUExecutionProvider" in providers
    yield Finding(GROUP, "onnxruntime", "ok" if fine else "broken",
                  f"{onnxruntime.__version__}, runs on: {names}",
                  "" if fine else "pip install --force-reinstall onnxruntime",
                  {"version": onnxruntime.__version__, "providers": providers})  # fmt: skip


def numba_compiles() -> Iterator[Finding]:
    """numba, which compiles the rasteriser."""
    try:
        import numba
    except (ImportError, OSError) as error:
        yield Finding(GROUP, "numba", "broken", str(error), "pip install -U numba")
        return

    def total(count):  # unannotated: numba infers the types
        found = 0
        for k in range(count):
            found += k
        return found

    fine = numba.njit(total)(101) == 5050
    text = f"{numba.__version__} compiles" if fine else f"{numba.__version__} compiles wrong code"
    yield Finding(GROUP, "numba", "ok" if fine else "broken", text,
                  "" if fine else "pip install --force-reinstall numba llvmlite",
                  {"version": numba.__version__})  # fmt: skip
