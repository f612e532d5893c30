"""The demo's server over HTTP, and its command: who may ask, what is refused, what is deleted."""

import json
import socket

import pytest

from helpers.demo_server import running_demo
from lifemask.apps.cli import main
from lifemask.apps.web import server as server_module
from lifemask.apps.web.settings import DemoConfig
from lifemask.apps.web.store import Store
from lifemask.assets import UserError

pytest.importorskip("gradio")
client_module = pytest.importorskip("starlette.testclient")


@pytest.fixture
def store(tmp_path):
    return Store(60, root=tmp_path / "demo")


@pytest.fixture
def client(store):
    """The routes of the viewer behind the guard, without gradio's page."""
    from starlette.applications import Starlette

    config = DemoConfig(max_upload_mb=0.1)
    app = Starlette(routes=server_module.viewer_routes(config, store))
    app.add_middleware(server_module.Guard, config=config)
    with client_module.TestClient(app, base_url="http://127.0.0.1") as made:
        yield made


def test_the_viewer_forbids_other_origins(client):
    answer = client.get("/lifemask/viewer/viewer.html")
    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200 and "<html" in answer.text
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy and "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_all_modules_of_the_viewer_are_served_and_name_no_other_place(client):
    for path in server_module.STATIC.iterdir():
        answer = client.get(f"/lifemask/viewer/{path.name}")
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        assert len(answer.text.splitlines()) < 500
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text
    for name in ("..%2fserver.py", "%2e%2e/server.py", "nothing.js", "viewer.py"):
        assert client.get(f"/lifemask/viewer/{name}").status_code == 404


def test_another_site_that_points_its_name_here_is_refused(client):
    path = "/lifemask/lights"
    assert client.get(path, headers={"Host": "evil.example:80"}).status_code == 421
    assert client.get(path, headers={"Host": "localhost:7860"}).status_code == 200
    assert client.get(path, headers={"Host": "[::1]:7860"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_page_of_another_site_sends_is_refused(client, site):
    path, foreign = "/lifemask/light?name=a.json", {"X-Lifemask": "viewer", "Sec-Fetch-Site": site}
    answer = client.post(path, content=b"x", headers=foreign)
    assert (answer.status_code, "page itself" in answer.text) == (403, True)
    assert client.options(path, headers=foreign).status_code == 403, "nor may it ask beforehand"
    own = foreign | {"Sec-Fetch-Site": "same-origin"}
    assert client.post(path, content=b"x", headers=own).status_code == 422
    assert client.get("/lifemask/lights", headers=foreign).status_code == 200, "a link leads here"


def test_results_need_their_token(client, store):
    token, folder = store.create("me")
    (folder / "set.json").write_text("{}")
    path = f"/lifemask/results/{token}/set.json"
    answer = client.get(path)
    assert (answer.status_code, answer.text) == (200, "{}")
    assert "no-store" in answer.headers["cache-control"]
    assert client.get("/lifemask/results/guess/set.json").status_code == 404
    for name in ("..%2f..%2fuploads", "%2fetc%2fpasswd", "a%00b"):
        assert client.get(f"/lifemask/results/{token}/{name}").status_code == 404
    store.forget("me")
    answer = client.get(path)
    assert answer.status_code == 404 and "deleted" in answer.text


def test_lights_are_served_and_uploads_of_light_are_limited(client):
    names = client.get("/lifemask/lights").json()
    assert len(client.get(f"/lifemask/lights/{next(iter(names))}").content) > 100_000
    assert client.get("/lifemask/lights/none").status_code == 404
    path, ours = "/lifemask/light?name=sky.hdr", {"X-Lifemask": "viewer"}
    assert client.post(path, content=b"x").status_code == 403, "a form of another site"
    answer = client.post(path, content=b"x", headers=ours)
    assert answer.status_code == 422 and answer.text.startswith("sky.hdr")
    long_name = f"/lifemask/light?name={'a' * 200}.hdr"
    answer = client.post(long_name, content=b"x", headers=ours)
    assert answer.status_code == 422 and "a light is one of" not in answer.text
    answer = client.post(path, content=b"x" * 200_000, headers=ours)
    assert answer.status_code == 413 and "0.1 MB" in answer.text
    sh = json.dumps({"sh": [[3.5, 3.5, 3.5]] + [[0, 0, 0]] * 8})
    answer = client.post("/lifemask/light?name=a.json", content=sh, headers=ours)
    assert answer.status_code == 200 and len(answer.content) > 100_000


def test_the_command_serves_a_quiet_page_and_leaves_nothing(tmp_path):
    with running_demo(tmp_path, "--max-upload-mb", "0.1") as served:
        assert served.url.startswith("http://127.0.0.1:")
        status, headers, page = served.get("")
        assert status == 200 and b"lifemask" in page
        assert headers["content-security-policy"].startswith("default-src 'self'")
        for host in (b"googleapis", b"cdnjs", b"huggingface.co", b"api.gradio.app"):
            assert host not in page
        config = json.loads(served.get("config")[2])
        assert config["analytics_enabled"] is False
        assert config["max_file_size"] == server_module.UPLOAD_ROOM * 100_000
        made = [d for d in config["dependencies"] if d["api_name"] == "reconstruct"]
        assert len(made) == 1 and made[0]["queue"] is not False
        assert list(tmp_path.glob("lifemask-demo-*"))
    assert not list(tmp_path.glob("lifemask-demo-*")), "what was stored outlived the server"


def test_a_taken_port_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as left:
            main(["demo", "--port", str(port)])
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in line and "--port" in line and line.count("\n") == 1


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    import importlib.util

    real = importlib.util.find_spec
    hide = lambda name, *rest: None if name == "gradio" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(SystemExit) as left:
        main(["demo"])
    assert left.value.code == 2
    assert "pip install 'lifemask[demo]'" in capsys.readouterr().err


def test_an_address_of_ip_version_6_stands_in_brackets():
    demo = object.__new__(server_module.Demo)
    for host, shown in (("::1", "[::1]"), ("::", "[::1]"), ("127.0.0.1", "127.0.0.1")):
        try:
            demo.socket = server_module.bind(host, 0)
        except UserError:  # no IPv6 here
            continue
        with demo.socket:
            assert demo.url == f"http://{shown}:{demo.socket.getsockname()[1]}/"


def test_a_server_that_cannot_be_made_leaves_nothing(store, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(server_module, "create_app", stop)
    monkeypatch.setattr(server_module, "keep_gradio_quiet", lambda uploads: None)
    with pytest.raises(KeyboardInterrupt):
        server_module.Demo(DemoConfig(port=0), store=store)
    assert not store.root.exists()


def test_stopping_it_is_one_json_document(monkeypatch, capsys):
    class Stopped:
        def __init__(self, config):
            raise KeyboardInterrupt

    monkeypatch.setattr(server_module, "Demo", Stopped)
    with pytest.raises(SystemExit) as left:
        main(["--json", "demo"])
    document = json.loads(capsys.readouterr().out)
    assert left.value.code == document["exit_code"] == 130
    assert document["command"] == "demo" and document["result"] is None


def test_another_host_is_warned_of(monkeypatch, capsys):
    class Stopped:
        url = "http://0.0.0.0:1/"

        def __init__(self, config):
            raise KeyboardInterrupt

    monkeypatch.setattr(server_module, "Demo", Stopped)
    with pytest.raises(SystemExit):
        main(["demo", "--host", "0.0.0.0"])
    assert "can be reached from other computers" in capsys.readouterr().err
