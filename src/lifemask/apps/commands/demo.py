"""`lifemask demo`: the web page, on this computer."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reached from here only.")
    ] = "127.0.0.1",
    weights: Annotated[
        str, typer.Option(metavar="open|research", help="Family of networks chosen at first.")
    ] = "open",
    max_upload_mb: Annotated[
        float, typer.Option(help="Largest photo or panorama, megabytes.")
    ] = 20.0,
    jobs: Annotated[
        int, typer.Option(help="Heads made at one time, at most one per core; others queue.")
    ] = 1,
    keep_minutes: Annotated[
        float, typer.Option(help="Photos and heads not used for so long are deleted.")
    ] = 30.0,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Show the page in the default browser.")
    ] = False,
) -> None:
    """Serve a web page: drop a photo, turn the head, relight it, move its face, download it."""
    import threading

    from lifemask.apps.web.server import Demo, check_gradio
    from lifemask.apps.web.settings import DemoConfig

    config = DemoConfig(
        host=host,
        port=port,
        weights=weights,
        max_upload_mb=max_upload_mb,
        jobs=jobs,
        keep_minutes=keep_minutes,
        open_browser=open_browser,
    )
    check_gradio()
    if not config.is_private:
        typer.echo(
            f"warning: {host} can be reached from other computers, and the page asks nobody for a"
            " password",
            err=True,
        )
    served = Demo(config)
    typer.echo(f"lifemask demo: {served.url} (Ctrl-C ends it and deletes all photos and heads)")
    warming = threading.Thread(target=served.workshop.warm, daemon=True)
    warming.start()
    if config.open_browser:
        import webbrowser

        threading.Timer(1.0, webbrowser.open, (served.url,)).start()
    try:
        served.run()
    finally:
        served.workshop.end()
        warming.join(timeout=20)  # networks that run while Python ends would abort it
