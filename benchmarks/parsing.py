"""Mean IoU of the shipped region parsers on held-out pictures, and their time per face.

    python benchmarks/parsing.py --family open --cache CACHE --cache CACHE2 --portraits PORTRAITS \
        --json benchmarks/results/parsing-open.json

Held out are caches of reserved people (`--seed` from 900000000, 256 px; of other caches the first
shard, which training leaves out) and ten FaceSynthetics portraits, none of which any parser was
trained on. Every picture is parsed in its nominal view (1.25 landmark squares), averaged with its
mirror image as in the product, and in one pass; scores sum the confusion over pictures, unlabelled
pixels left out. They are given at the parser's own size and at 128 px, where a pixel of border
weighs more. Glasses, which are no class, are scored where both the set and the parser tell them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import adaptive_avg_pool2d  # noqa: E402

from lifemask.data.base import read_cache_header  # noqa: E402
from lifemask.data.facesynthetics import load_facesynthetics  # noqa: E402
from lifemask.data.region_augment import NO_REGION_AUGMENTATION, draw_batch  # noqa: E402
from lifemask.data.regions import (  # noqa: E402
    IGNORE,
    RegionSet,
    load_region_cache,
    merged,
    split_glasses,
)  # noqa: E402
from lifemask.data.synthetic import HELD_OUT_SEED  # noqa: E402
from lifemask.evaluation.regions import confusion_per_image, mask_iou, score_regions  # noqa: E402
from lifemask.faces.parsing import Parser, load_parser  # noqa: E402
from lifemask.types import REGION_NAMES  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

SMALL = 128
CLASSES = len(REGION_NAMES)
FEW = 0.002
"""Share of a picture that glasses cover at least to count as worn: a thin frame covers 1 %."""
TARGETS = {"renders-open": 0.85, "renders-research": 0.85, "facesynthetics": 0.70}


def held_out(caches: list[Path], portraits: Path | None, limit: int) -> dict[str, RegionSet]:
    """The sets no parser was trained on, by name."""
    sets: dict[str, RegionSet] = {}
    for folder in caches:
        header = read_cache_header(folder, held_out=True)
        tag = "open" if header["licence"] == "open" else "research"
        reserved = int(header["seed"]) >= HELD_OUT_SEED
        shards = slice(None) if reserved else slice(0, 1)
        name, found = f"renders-{tag}", load_region_cache(folder, shards, held_out=True)
        found = found.subset(np.arange(min(limit, len(found))))
        sets[name] = merged(sets[name], found) if name in sets else found
    if portraits is not None:
        sets["facesynthetics"] = load_facesynthetics(portraits)[1]
    return sets


def views(source: RegionSet, size: int, batch: int = 20) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Nominal views (b, 3, size, size) in [0, 1] and their maps (b, size, size)."""
    rng = np.random.default_rng(0)
    for start in range(0, len(source), batch):
        ids = np.arange(start, min(start + batch, len(source)))
        crops, maps = draw_batch(rng, source, ids, NO_REGION_AUGMENTATION, size)
        yield crops.transpose(0, 3, 1, 2), maps


def score(parser: Parser, source: RegionSet, name: str) -> dict[str, Any]:
    """Scores of a set: averaged with the mirrored crop, of one pass, and the first at 128 px."""
    kinds = {"both": (True, parser.size), "one": (False, parser.size), "small": (True, SMALL)}
    counts: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    worn: list[tuple[np.ndarray, np.ndarray]] = []
    small = (maps for _, maps in views(source, SMALL))
    for (crops, maps), small_maps in zip(views(source, parser.size), small, strict=True):
        one = parser.predict_crops(torch.from_numpy(crops))
        both = parser.predict_crops(torch.from_numpy(crops), flip_average=True)
        if source.glasses and both.shape[1] > CLASSES:
            labels, glasses = split_glasses(maps)
            worn.append(((both[:, CLASSES] > 0.5).numpy() & (labels != IGNORE), glasses))
        reduced = adaptive_avg_pool2d(both, SMALL)
        for kind, found, true in (
            ("one", one, maps), ("both", both, maps), ("small", reduced, small_maps)
        ):  # fmt: skip
            best = found[:, :CLASSES].argmax(1).byte().numpy()
            counts[kind].append(confusion_per_image(best, split_glasses(true)[0]))
    numbers = []
    for kind, (mirror, size) in kinds.items():
        flags = {"data": name, "crop": "1.25 landmark squares", "size": size}
        result = score_regions(np.concatenate(counts[kind]), {**flags, "flip_average": mirror})
        number = result["numbers"][0]
        number["target"] = TARGETS[name]
        number["reached"] = number["value"] >= TARGETS[name]
        numbers.append(number)
    return {"images": len(source), "numbers": numbers, "glasses": score_glasses(worn)}


def score_glasses(worn: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any] | None:
    """IoU of glasses and how often they are told wrongly; None where they are not told."""
    if not worn:
        return None
    found, true = (np.concatenate(column) for column in zip(*worn, strict=True))
    least = FEW * found[0].size
    with_glasses = true.sum((1, 2)) > least
    said = found.sum((1, 2)) > least
    return {
        "iou": round(mask_iou(found, true), 4),
        "pictures with": int(with_glasses.sum()),
        "of these told": round(float(said[with_glasses].mean()), 4),
        "pictures without": int((true.sum((1, 2)) == 0).sum()),
        "of these told wrongly": round(float(said[true.sum((1, 2)) == 0].mean()), 4),
        "share of a picture that counts": FEW,
    }


def ms_per_face(parser: Parser, repeats: int) -> float:
    """Median processor time in ms of one face of a one-megapixel photo, crop included."""
    photo = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    times = []
    for _ in range(repeats + 3):
        start = time.process_time()
        parser(photo, (300.0, 300.0, 700.0, 700.0))
        times.append(time.process_time() - start)
    return round(1000 * statistics.median(times[3:]), 2)


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--family", choices=("open", "research"), required=True)
    options.add_argument("--cache", type=Path, action="append", default=[])
    options.add_argument("--portraits", type=Path)
    options.add_argument("--limit", type=int, default=1000, help="pictures of each cache")
    options.add_argument("--repeats", type=int, default=30)
    options.add_argument("--json", type=Path, required=True)
    given = options.parse_args()
    torch.set_num_threads(1)
    parser = load_parser(given.family, threads=1)
    kept_apart = held_out(given.cache, given.portraits, given.limit)
    sets = {name: score(parser, source, name) for name, source in kept_apart.items()}
    speed = {"onnx": ms_per_face(parser, given.repeats)}
    speed["torch"] = ms_per_face(load_parser(given.family, "torch"), given.repeats)
    command = (
        f"python benchmarks/parsing.py --family {given.family} "
        f"{'--cache CACHE ' * len(given.cache)}--portraits PORTRAITS --limit {given.limit} "
        "--json FILE"
    )
    result = {
        "weights": f"parser-{given.family}",
        "sets": sets,
        "ms_per_face": speed,
        "threads": 1,
        "load": round(os.getloadavg()[0], 2),
        **provenance(command),
    }
    write_result(given.json, result)
    for name, one in sets.items():
        for number in one["numbers"]:
            flags = number["flags"]
            kind = f"{name} at {flags['size']} px, flip={flags['flip_average']}"
            print(f"{kind}: {number['value']:.4f} {number['ci95']} of {one['images']}")
        print("  ", one["numbers"][0]["per_class"], one["glasses"])
    print("ms per face:", speed)


if __name__ == "__main__":
    main()
