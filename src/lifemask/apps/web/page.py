"""The demo's page in Gradio: a photo in, the viewer in a frame, progress and errors in one line.

Importing this module loads gradio; only `server.create_app` does.
"""

from __future__ import annotations

import html
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from lifemask.apps.photos import sample_photo
from lifemask.apps.web.settings import METHODS, DemoConfig
from lifemask.apps.web.store import Store
from lifemask.apps.web.workshop import (
    MOST_METHODS,
    SAMPLE_NAME,
    Progress,
    Workshop,
    licence_line,
    read_upload,
    told,
)
from lifemask.assets import UserError
from lifemask.graphics.meshio import encode_image, write_atomic

log = logging.getLogger(__name__)

FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
VIEWER = "/lifemask/viewer/viewer.html"
CSS = """
.gradio-container { max-width: 1500px !important; margin: 0 auto !important; }
#viewer iframe { width: 100%; height: min(84vh, 860px); min-height: 620px; border: 0;
  border-radius: 12px; display: block; background: #15171b; }
#viewer { padding: 0; overflow: visible; }
#title h1 { margin: 0 0 2px; font-size: 1.5rem; }
#title p { margin: 0; opacity: .75; }
#status { min-height: 64px; }
#status .line { min-height: 2.4em; padding: 8px 2px; font-size: .95rem; }
#status .bad { color: #c0392b; font-weight: 600; }
.dark #status .bad { color: #ff8b7d; }
#status .bar { height: 6px; border-radius: 3px; background: rgba(128,128,128,.25);
  overflow: hidden; margin-top: 6px; }
#status .bar i { display: block; height: 100%; background: #1c97a8; transition: width .3s; }
#private { font-size: .82rem; opacity: .75; }
footer { display: none !important; }
"""


def create_theme():
    """Colours and fonts of the page; fonts of the system only."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.cyan,
        neutral_hue=gr.themes.colors.gray,
        font=FONTS,
        font_mono=MONO,
    )


def create_page(config: DemoConfig, workshop: Workshop, store: Store):
    """The page as Gradio blocks, its queue set up."""
    maker = Maker(config, workshop, store)
    keep_s = int(config.keep_minutes * 60)
    with gr.Blocks(
        title="lifemask",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(min(60, keep_s) or 1, keep_s or 1),
    ) as page:
        gr.HTML(
            "<h1>lifemask</h1><p>A cast of a living face from one photograph.</p>", elem_id="title"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.Image(
                    label="Photo",
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    image_mode=None,
                    height=240,
                    buttons=[],
                    elem_id="photo",
                )
                _take_files_as_they_are(photo)
                sample = gr.Button("Use a sample photo", size="sm", elem_id="sample")
                status = gr.HTML(status_html("Choose a photo to begin."), elem_id="status")
                methods = gr.CheckboxGroup(
                    choices=[(label, name) for name, (label, _) in METHODS.items()],
                    value=["pgn"],
                    label="Method",
                    info=f"Tick two or three (at most {MOST_METHODS}) to compare side by side. "
                    + " ".join(f"{label}: {line}." for label, line in METHODS.values()),
                    elem_id="methods",
                )
                weights = gr.Radio(
                    choices=[
                        (f"{name}: {licence_line(name)}", name) for name in ("open", "research")
                    ],
                    value=config.weights,
                    label="Networks and their licence",
                    elem_id="weights",
                )
                go = gr.Button("Make the head", variant="primary", elem_id="go")
                gr.HTML(f"<div>{privacy_line(config)}</div>", elem_id="private")
            with gr.Column(scale=3, min_width=560):
                viewer = gr.HTML(viewer_html(""), elem_id="viewer")
        given: dict[str, Any] = {
            "inputs": [photo, methods, weights],
            "outputs": [viewer, status],
            "concurrency_limit": config.jobs,
            "concurrency_id": "heads",
            "show_progress": "full",
            "show_progress_on": status,
        }
        photo.input(maker.make, **given, api_visibility="private", trigger_mode="always_last")
        go.click(maker.make, **given, api_name="reconstruct")
        chosen = sample.click(maker.sample, None, photo, api_visibility="private", queue=False)
        chosen.then(maker.make, **given, api_visibility="private")
        page.unload(maker.leave)
    page.queue(default_concurrency_limit=config.jobs, max_size=config.max_queue)
    return page


class Maker:
    """What the page's events do."""

    def __init__(self, config: DemoConfig, workshop: Workshop, store: Store) -> None:
        self.config, self.workshop, self.store = config, workshop, store
        self._sampling = threading.Lock()

    def make(self, photo, methods, weights, request: gr.Request) -> Iterator[tuple[Any, str]]:
        """Make heads; yields (viewer or nothing new, status)."""
        owner = getattr(request, "session_hash", None) or "api"
        if not photo:
            yield gr.skip(), status_html("Choose a photo to begin.")
            return
        upload = Path(photo)
        self.store.adopt(owner, upload)
        token, folder = self.store.create(owner)
        shown, notes = 0, []
        try:
            image = read_upload(upload, self.config)
            for step in self.workshop.make(image, upload.name, methods or [], weights, folder):
                notes += [step.note] if step.note else []
                view = viewer_html(token) if step.heads and not shown else gr.skip()
                if step.heads and not shown:
                    self.store.keep_only(owner, token, upload)
                shown = step.heads
                yield view, progress_html(step, notes)
        except UserError as error:
            yield gr.skip(), status_html(told(error), bad=True)
        except FileNotFoundError:
            if folder.is_dir():
                raise
            log.info("a page was closed while its head was being made")
        except Exception:
            log.exception("a head could not be made; please report this")
            line = "something went wrong inside lifemask; the terminal says what, please report it"
            yield gr.skip(), status_html(line, bad=True)

    def sample(self) -> str:
        """The sample portrait as if it had been uploaded."""
        path = self.store.uploads / "sample" / SAMPLE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._sampling:
            write_atomic(path, encode_image(sample_photo(), "png"))  # others may read it now
        return str(path)

    def leave(self, request: gr.Request) -> None:
        """A page was closed: delete its photo and heads."""
        self.store.forget(getattr(request, "session_hash", None) or "")


def viewer_html(token: str) -> str:
    """The frame with the viewer; an empty token shows where the head will be."""
    query = f"?set={html.escape(token)}" if token else ""
    return (
        f'<iframe src="{VIEWER}{query}" title="3D viewer of the head" allow="fullscreen"></iframe>'
    )


def status_html(text: str, *, bad: bool = False) -> str:
    """A line under the button; a bad one is read out by screen readers at once."""
    kind = 'class="line bad" role="alert"' if bad else 'class="line" role="status"'
    return f"<div {kind}>{html.escape(_sentence(text))}</div>"


def progress_html(step: Progress, notes: list[str]) -> str:
    """How far a job is, with what went wrong so far."""
    percent = round(100 * step.share)
    bar = (
        f'<div class="bar" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0"'
        f' aria-valuemax="100" aria-label="progress"><i style="width:{percent}%"></i></div>'
    )
    lines = "".join(status_html(note, bad=True) for note in notes)
    text = step.text if step.share < 1 else "Done."
    return f'<div class="line" role="status">{html.escape(text)}{bar}</div>{lines}'


def privacy_line(config: DemoConfig) -> str:
    """What happens to photos, in a line."""
    where = "on this computer" if config.is_private else "on the server's computer"
    return (
        f"Photos stay {where}: nothing is sent anywhere else. Photo and heads are deleted when you "
        f"close this page, and after {config.keep_minutes:g} minutes without use. Up to "
        f"{config.max_upload_mb:g} MB."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _take_files_as_they_are(photo) -> None:
    """Let `read_photo` decode what was sent, so that its errors and its EXIF handling count."""
    decode = photo.preprocess

    def preprocess(payload):
        inline = payload is not None and (payload.url or "").startswith("data:")
        return decode(payload) if inline else payload and payload.path

    photo.preprocess = preprocess
