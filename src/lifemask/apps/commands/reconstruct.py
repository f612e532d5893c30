"""`lifemask reconstruct PHOTO... -o DIR`: photos to heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifemask.assets import UserError

if TYPE_CHECKING:
    from lifemask.pipeline_config import PipelineConfig

Photos = Annotated[
    list[Path] | None, typer.Argument(metavar="PHOTO...", help="Photos.", show_default=False)
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Each photo gets a folder in it.")
]
Weights = Annotated[
    str,
    typer.Option(
        metavar="open|research", help="open: usable for anything; research: research only."
    ),
]
Texture = Annotated[
    str,
    typer.Option(
        metavar="auto|retexture|photo|none",
        help="How the head gets its colour: by the network, or by inverting one light (photo).",
    ),
]
Formats = Annotated[str, typer.Option(metavar="LIST", help="Some of glb,obj,ply,json,png.")]
CameraName = Annotated[
    str, typer.Option("--camera", metavar="orthographic|pinhole", help="Camera model.")
]
Refine = Annotated[
    bool, typer.Option("--refine/--no-refine", help="Let the colours refine the shape.")
]
Mouth = Annotated[
    bool, typer.Option("--mouth/--no-mouth", help="Read the lips from a close-up of the mouth.")
]
Eyes = Annotated[
    bool, typer.Option("--eyes/--no-eyes", help="Read lids and gaze from close-ups of the eyes.")
]
Method = Annotated[
    str,
    typer.Option(
        metavar="fit|dasl|pgn|rafare",
        help="How a face becomes geometry: fit solves for the head behind its landmarks,"
        " dasl (2DASL) regresses it from the picture, pgn predicts a position map and solves for"
        " the pose, rafare finds the surface itself, with its folds, and carries it onto a head.",
    ),
]
MapSource = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="detector|self|none",
        help="With --method dasl: where the points of its input map come from: our landmarks or"
        " yours (default), its own passes, or nowhere.",
        show_default=False,
    ),
]
Shape = Annotated[
    str | None,
    typer.Option(
        metavar="model|map",
        help="With --method pgn: the face model's mesh (default), or the position map's own where"
        " it shows the face; the latter has no identity or expression and is not refined.",
        show_default=False,
    ),
]
Detail = Annotated[
    str,
    typer.Option(
        metavar="auto|none|rafare",
        help="rafare: the surface that RAFaRe finds is carried onto the head, as vertices and as a"
        " displacement and normal map (default with --method rafare). none with --method rafare:"
        " the bare surface, without texture and blendshapes.",
    ),
]
SamePerson = Annotated[
    bool,
    typer.Option(
        "--same-person",
        help="The photos show one person (the largest face of each): one identity for all,"
        " a pose and an expression for each.",
    ),
]
Maps = Annotated[
    bool, typer.Option("--maps/--no-maps", help="Normal and roughness maps of the skin.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="onnx|torch",
        help="What runs the networks, on the CPU: onnxruntime, or torch; the results agree.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]


def reconstruct(
    photos: Photos = None,
    out: Out = Path("out"),
    sample: Annotated[
        bool, typer.Option("--sample", help="Use the public-domain portrait of an astronaut.")
    ] = False,
    method: Method = "pgn",
    map_source: MapSource = None,
    shape: Shape = None,
    detail: Detail = "auto",
    texture: Texture = "auto",
    weights: Weights = "open",
    faces: Annotated[
        str, typer.Option(metavar="largest|all", help="Which faces of a photo.")
    ] = "largest",
    same_person: SamePerson = False,
    formats: Formats = "glb,obj,json,png",
    maps: Maps = True,
    camera: CameraName = "orthographic",
    refine: Refine = True,
    mouth: Mouth = True,
    eyes: Eyes = True,
    device: Device = "cpu",
    engine: EngineName = "onnx",
    overwrite: Overwrite = False,
) -> None:
    """Turn photos into textured, animatable, relightable heads.

    Each photo gets a folder of its own: head.glb with 52 ARKit morph targets, head.obj with its
    textures, params.json with pose, identity, expression, landmarks and light, and preview.png.
    """
    chosen = list(photos or [])
    if not chosen and not sample:
        raise UserError("no photo given; name some, or try --sample")
    from lifemask.apps.photos import PhotoJob, jobs_for, run_jobs, run_person

    jobs = jobs_for(chosen, out)
    if sample:
        jobs.insert(0, PhotoJob(None, out / "astronaut"))
    if same_person:
        _check_same_person(len(jobs), faces)
    from lifemask.pipeline import Pipeline

    config = settings(
        method, map_source, shape, camera, weights=weights, detail=detail, texture=texture,
        faces=faces, refine=refine, mouth=mouth, eyes=eyes, device=device, engine=engine,
    )  # fmt: skip
    run = run_person if same_person else run_jobs
    run(Pipeline(config), jobs, formats.split(","), overwrite, maps=maps)


def settings(
    method: str, map_source: str | None, shape: str | None, camera: str, **others: Any
) -> PipelineConfig:
    """What the options of this command and of `lifemask batch` ask for.

    Args:
        method: key of `pipeline.METHODS`.
        map_source: of 2DASL's map; None for its default.
        shape: of PGN's mesh; None for its default.
        camera: model of the camera.
        others: further fields of `PipelineConfig`.

    Raises:
        UserError: one of them is unknown, or belongs to another method.
    """
    from lifemask.methods.fitting import FitConfig
    from lifemask.pipeline_config import (
        PipelineConfig,
        check_choice,
        dasl_settings,
        pgn_settings,
    )

    check_choice("camera", camera, ("orthographic", "pinhole"))
    return PipelineConfig(
        method=method,
        fit=FitConfig(camera=camera),  # pyright: ignore[reportArgumentType]
        dasl=dasl_settings(method, map_source),
        pgn=pgn_settings(method, shape),
        **others,
    )


def _check_same_person(photos: int, faces: str) -> None:
    """Refuse what makes no person."""
    if photos < 2:
        raise UserError("--same-person needs at least two photos; name another, or leave it out")
    if faces == "all":
        raise UserError("--same-person takes one face of each photo; leave out --faces all")
