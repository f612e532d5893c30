"""From a run of the mouth reader to shipped weights: fp16 safetensors, ONNX and a card.

python -m lifemask.training.mouth_export --run RUN --name mouth-open --family open --metrics JSON
"""

from __future__ import annotations

from lifemask.faces.mouth import HEIGHT, WIDTH
from lifemask.nn.mouth_net import MouthExport, MouthNet
from lifemask.training._closeup_export import CloseupKind, export_run

KIND = CloseupKind(
    kind="mouth",
    summary="how far the lips are apart, from the close-up of a mouth",
    net=MouthNet,
    published=MouthExport,
    output="mouths",
    rows=HEIGHT,
    columns=WIDTH,
    tolerance=1e-4,
)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    export_run(KIND, __doc__, arguments)


if __name__ == "__main__":
    main()
