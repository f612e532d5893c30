"""`lifemask fit PHOTO --landmarks FILE`: one head, from landmarks if the user has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifemask.apps.commands.reconstruct import (
    CameraName,
    Device,
    EngineName,
    Eyes,
    Formats,
    Maps,
    MapSource,
    Method,
    Out,
    Overwrite,
    Refine,
    Texture,
    Weights,
)


def fit(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo.")],
    out: Out = Path("out"),
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Landmarks of the face in photo pixels, .npz, .json, .csv or .pts: 68 (iBUG), "
            "21 (AFLW), 468 or 478 (MediaPipe) or 392 points; else the network finds them.",
        ),
    ] = None,
    method: Method = "fit",
    map_source: MapSource = None,
    texture: Texture = "auto",
    weights: Weights = "open",
    formats: Formats = "glb,obj,json,png",
    maps: Maps = True,
    camera: CameraName = "orthographic",
    focal_px: Annotated[
        float | None, typer.Option(help="Focal length of a pinhole camera in px of the photo.")
    ] = None,
    refine: Refine = True,
    eyes: Eyes = True,
    device: Device = "cpu",
    engine: EngineName = "onnx",
    overwrite: Overwrite = False,
) -> None:
    """Fit the head model to the landmarks of one face; or regress it, with them as a map."""
    from lifemask.apps.photos import jobs_for, run_jobs
    from lifemask.methods.fitting import FitConfig
    from lifemask.pipeline import Pipeline, PipelineConfig, check_choice, dasl_settings

    check_choice("camera", camera, ("orthographic", "pinhole"))
    fitting = FitConfig(camera=camera, focal_px=focal_px)  # pyright: ignore[reportArgumentType]
    config = PipelineConfig(
        weights=weights,  # pyright: ignore[reportArgumentType]
        method=method,
        texture=texture,
        refine=refine,
        eyes=eyes,
        device=device,
        engine=engine,  # pyright: ignore[reportArgumentType]
        fit=fitting,
        dasl=dasl_settings(method, map_source),
    )
    jobs = jobs_for([photo], out)
    run_jobs(Pipeline(config), jobs, formats.split(","), overwrite, landmarks, maps)
