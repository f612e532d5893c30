"""The demo's web server: the page, the viewer, results and lights; to this computer only."""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lifemask.apps.web.lights import light_lines, named_light, uploaded_light
from lifemask.apps.web.settings import LOOPBACK, DemoConfig
from lifemask.apps.web.store import Store
from lifemask.apps.web.workshop import Workshop
from lifemask.assets import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.routing import BaseRoute

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}  # noqa: E501  # fmt: skip
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self'"
    " 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self'"
    " data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none';"
    " base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Gradio's page needs inline scripts; nothing may come from another place than this server."""
UPLOAD_ROOM = 4
"""Gradio stops uploads this much above the limit; those between get the page's own line."""
VIEWER_POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none';"
    " frame-ancestors 'self'"
)
OTHERS = (b"cross-site", b"same-site")
"""Whose page sends a request, as browsers tell it: one of another origin."""


class Demo:
    """A server with its files and its workshop."""

    def __init__(
        self, config: DemoConfig, *, workshop: Workshop | None = None, store: Store | None = None
    ) -> None:
        """Make everything but the connection.

        Raises:
            UserError: gradio is not installed, or the port is taken.
        """
        check_gradio()
        self.config = config
        self.socket = bind(config.host, config.port)
        self.store = store or Store(config.keep_minutes * 60)
        self.workshop = workshop or Workshop(config)
        keep_gradio_quiet(self.store.uploads)
        try:
            self.app = create_app(config, self.workshop, self.store)
        except BaseException:  # Ctrl-C while gradio loads, which takes seconds
            self.store.close()
            self.socket.close()
            raise

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.socket.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))
        return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"

    def run(self) -> None:
        """Serve until Ctrl-C; then everything that was stored is deleted."""
        import signal

        def leave(*_) -> None:  # uvicorn ends first, then raises the signal again
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, leave)
        try:
            self.store.start()
            self._create_server().run(sockets=[self.socket])
        finally:
            self.store.close()

    def _create_server(self):
        import uvicorn

        settings = uvicorn.Config(
            self.app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=1
        )
        return uvicorn.Server(settings)


def create_app(config: DemoConfig, workshop: Workshop, store: Store) -> FastAPI:
    """All routes: the page at /, and below /lifemask/ the viewer, results and lights."""
    import gradio
    from fastapi import FastAPI

    from lifemask.apps.web.page import CSS, create_page, create_theme

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.router.routes += viewer_routes(config, store)
    gradio.mount_gradio_app(
        app,
        create_page(config, workshop, store),
        path="/",
        server_name=config.host,
        footer_links=[],
        run_history=False,
        max_file_size=UPLOAD_ROOM * config.max_upload_bytes,
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=create_theme(),
        css=CSS,
    )
    app.add_middleware(Guard, config=config)  # pyright: ignore[reportArgumentType]
    return app


def viewer_routes(config: DemoConfig, store: Store) -> list[BaseRoute]:
    """What the viewer asks for, below /lifemask/; needs no gradio."""
    from starlette.routing import Route

    routes = Routes(config, store)
    return [
        Route("/lifemask/viewer/{name}", routes.static),
        Route("/lifemask/results/{token}/{name:path}", routes.result),
        Route("/lifemask/lights", routes.lights),
        Route("/lifemask/lights/{name}", routes.light),
        Route("/lifemask/light", routes.own_light, methods=["POST"]),
    ]


class Routes:
    """What the viewer asks for; each method answers one request."""

    def __init__(self, config: DemoConfig, store: Store) -> None:
        self.config, self.store = config, store
        self._one_light = threading.Semaphore(config.jobs)

    def static(self, request):
        """A file of the viewer."""
        name = request.path_params["name"]
        path = STATIC / name
        known = path.suffix in TYPES and path.parent == STATIC and path.is_file()
        if not known:
            return _line("there is no such page", 404)
        headers = {"Content-Security-Policy": VIEWER_POLICY, "Cache-Control": "no-cache"}
        return _bytes(path.read_bytes(), TYPES[path.suffix] + "; charset=utf-8", headers)

    def result(self, request):
        """A file of a result; its token is what allows it."""
        from starlette.responses import FileResponse

        token, name = request.path_params["token"], request.path_params["name"]
        path = self.store.file(token, name)
        if path is None:
            return _line("this head has been deleted; make it again", 404)
        headers = {"Cache-Control": "private, no-store"}
        kind = {".glb": "model/gltf-binary", ".light": "application/octet-stream"}
        return FileResponse(path, headers=headers, media_type=kind.get(path.suffix))

    def lights(self, request):
        """The names of the lights, with a line about each."""
        from starlette.responses import JSONResponse

        return JSONResponse(light_lines())

    def light(self, request):
        """One of the named lights."""
        try:
            data = named_light(request.path_params["name"])
        except KeyError:
            return _line("there is no such light", 404)
        return _bytes(data, "application/octet-stream", {"Cache-Control": "private, max-age=3600"})

    async def own_light(self, request):
        """A panorama that the user brings, its name in the query; nothing of it is kept."""
        from starlette.concurrency import run_in_threadpool

        if request.headers.get("x-lifemask") != "viewer":  # another site's page cannot send this
            return _line("this is for the viewer", 403)
        name = Path(request.query_params.get("name", "light")).name[-80:]  # its suffix counts
        data, most = bytearray(), self.config.max_upload_bytes
        async for part in request.stream():
            data += part
            if len(data) > most:
                return _line(f"{name} has more than {self.config.max_upload_mb:g} MB", 413)
        try:
            light = await run_in_threadpool(self._read_light, bytes(data), name)
        except UserError as error:
            return _line(str(error), 422)
        return _bytes(light, "application/octet-stream", {"Cache-Control": "no-store"})

    def _read_light(self, data: bytes, name: str) -> bytes:
        with self._one_light:
            return uploaded_light(data, name)


class Guard:
    """Middleware: refuse other host names (DNS rebinding) and what other sites' pages send.

    It forbids the page other origins, too.
    """

    def __init__(self, app, config: DemoConfig) -> None:
        self.app, self.config = app, config

    async def __call__(self, scope, receive, send) -> None:
        """Answer, or pass on; ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.config.is_private and _host_name(host) not in LOOPBACK:
            await _line("this page is for this computer only", 421)(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD") and headers.get(b"sec-fetch-site") in OTHERS:
            await _line("this is for the page itself", 403)(scope, receive, send)
            return

        async def guarded(message) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": _with_policy(message["headers"])}
            await send(message)

        await self.app(scope, receive, guarded)


def check_gradio() -> None:
    """Raise UserError, naming the extra, where gradio is not installed."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise UserError("the demo needs gradio: pip install 'lifemask[demo]'")


def keep_gradio_quiet(uploads: Path) -> None:
    """Tell gradio, by the environment it reads, to call nobody and to keep files in our tree."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_SSR_MODE"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the port is taken, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise UserError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); give another --port, or 0"
            " for any free one"
        ) from error
    return found


def _host_name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].split("]")[0]
    return host.rsplit(":", 1)[0] if ":" in host else host


def _with_policy(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in headers}
    extra = [
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
    if b"content-security-policy" not in names:
        extra.append((b"content-security-policy", PAGE_POLICY.encode()))
    return [*headers, *(pair for pair in extra if pair[0] not in names)]


def _line(text: str, status: int):
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, status)


def _bytes(data: bytes, kind: str, headers: dict[str, str]):
    from starlette.responses import Response

    return Response(data, media_type=kind, headers=headers)
