"""From a run of the eye reader to shipped weights: fp16 safetensors, ONNX and a card.

python -m lifemask.training.eyes_export --run RUN --name eyes-open --family open --metrics JSON
"""

from __future__ import annotations

from lifemask.faces.eyes import HEIGHT, WIDTH
from lifemask.nn.eye_net import EyeExport, EyeNet
from lifemask.training._closeup_export import CloseupKind, export_run

KIND = CloseupKind(
    kind="eyes",
    summary="lid opening and gaze from the close-up of an eye",
    net=EyeNet,
    published=EyeExport,
    output="eyes",
    rows=HEIGHT,
    columns=WIDTH,
    tolerance=1e-2,  # hundredths of a degree
)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    export_run(KIND, __doc__, arguments)


if __name__ == "__main__":
    main()
