"""`lifemask assets`: weights and face models, their origin, licence and sha256."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lifemask.apps.session import report
from lifemask.assets import Asset, UserError, assets_markdown, verify
from lifemask.assets import assets as all_assets

app = typer.Typer(help="Weights and face models: origin, licence, sha256.", no_args_is_help=True)


@app.command("list")
def list_assets(
    markdown: Annotated[bool, typer.Option("--markdown", help="The text of ASSETS.md.")] = False,
) -> None:
    """List what lifemask uses that is not code."""
    if markdown:
        typer.echo(assets_markdown(), nl=False)
        return
    report(assets=[_record(asset) for asset in all_assets()])
    for asset in all_assets():
        typer.echo(f"{asset.name:24} {asset.tag:9} {asset.licence:14} {asset.summary}")


@app.command("verify")
def verify_assets() -> None:
    """Compare every file with its sha256."""
    problems, files = 0, []
    for asset, file_name, problem in verify():
        problems += bool(problem)
        remedy = asset.remedy if problem else ""
        files.append({"asset": asset.name, "file": file_name, "problem": problem, "remedy": remedy})
        typer.echo(f"{file_name:32} {problem or 'ok'}")
        if problem:
            typer.echo(f"  remedy: {asset.remedy}", err=True)
    report(files=files, problems=problems)
    if problems:
        raise UserError(f"{problems} asset files are not as they should be")


@app.command("convert")
def convert(
    model: Annotated[str, typer.Argument(help="ict, flame2020, flame2023, bfm2009, bfm2017, sfm.")],
    source: Annotated[
        list[Path],
        typer.Option("--source", help="A file or folder of its authors; may be repeated."),
    ],
    more: Annotated[list[Path] | None, typer.Argument(help="More sources.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.npz", help="Result; else the models folder."),
    ] = None,
) -> None:
    """Convert a face model from its authors' files to one npz; executes nothing in them."""
    from lifemask.facemodel.convert import convert

    path = convert(model, [*source, *(more or [])], out)
    typer.echo(f"face model: {path}")
    report(file=str(path))


@app.command("fetch")
def fetch() -> None:
    """Tell where to get what does not come with lifemask."""
    report(assets=[_record(asset) for asset in all_assets() if asset.package is None])
    for asset in all_assets():
        if asset.package is None:
            typer.echo(f"{asset.name} ({asset.licence}): {asset.sources[0]}\n  {asset.remedy}")
    typer.echo("Everything else comes with the package; check it with: lifemask assets verify")


def _record(asset: Asset) -> dict[str, object]:
    """An asset for `--json`."""
    return {
        "name": asset.name,
        "summary": asset.summary,
        "kind": asset.kind,
        "licence": asset.licence,
        "tag": asset.tag,
        "files": dict(asset.files),
        "sources": list(asset.sources),
        "remedy": asset.remedy,
    }
