"""Exit statuses, and the JSON document of a run."""

import json
import os
import subprocess
import sys

import pytest
import typer

from lifemask.apps import session
from lifemask.apps.cli import main
from lifemask.apps.session import SCHEMA_VERSION, SomeFailedError, Status, report, take_json
from lifemask.assets import UserError

ANSWERS = {
    "good": None,
    "wrong": UserError("no such thing; try another"),
    "partly": SomeFailedError("1 of 2 failed"),
    "faulty": ZeroDivisionError("a bug"),
    "stopped": KeyboardInterrupt(),
}


@pytest.fixture
def program():
    """A program whose commands end in every way there is."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def work(how: str, count: int = 1):
        typer.echo(f"working {how}")
        report(how=how, value=float("nan"), rows=[1, {"x": float("inf")}])
        error = ANSWERS[how]
        if error is not None:
            raise error

    @app.command()
    def leave(code: int):
        session.report_failure("not ready")
        raise typer.Exit(code)

    return app


def run(program, *words: str) -> int:
    return session.run(program, list(words), subcommands=())


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        ("good", 0, ""),
        ("wrong", 2, "error: no such thing; try another\n"),
        ("partly", 3, "error: 1 of 2 failed\n"),
        ("faulty", 1, "error: ZeroDivisionError: a bug\n"),
        ("stopped", 130, ""),
    ],
)
def test_every_ending_has_its_status(program, capsys, how, status, told):
    assert run(program, "work", how) == status
    captured = capsys.readouterr()
    assert captured.out == f"working {how}\n" and captured.err.startswith(told)
    assert run(program, "work", how, "--json") == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"working {how}\n{told}")
    document = json.loads(captured.out)
    assert document["exit_code"] == status and document["command"] == "work"
    assert document["result"] == {"how": how, "value": None, "rows": [1, {"x": None}]}
    kinds = {0: None, 1: "fault", 2: "user", 3: "some failed", 130: "interrupted"}
    assert (document["error"] or {}).get("kind") == kinds[status]
    if told:
        assert told == f"error: {document['error']['message']}\n"


def test_a_fault_says_how_to_report_it_and_shows_its_traceback_when_asked(
    program, capsys, monkeypatch
):
    run(program, "work", "faulty")
    told = capsys.readouterr().err
    assert told.count("\n") == 2 and "lifemask doctor" in told and session.ISSUES in told
    assert "Traceback" not in told
    monkeypatch.setattr(session.logging.Logger, "isEnabledFor", lambda self, level: True)
    run(program, "work", "faulty")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_wrong_usage_is_a_document_too(program, capsys):
    for words in (
        ("work",),
        ("work", "good", "--count", "x"),
        ("work", "good", "--colour"),
        ("x",),
    ):
        assert run(program, "--json", *words) == Status.USER_ERROR
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["kind"] == "user" and error["message"]
        assert run(program, *words) == Status.USER_ERROR
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err


def test_a_status_of_a_commands_own_is_kept(program, capsys):
    assert run(program, "leave", "1") == 1
    assert run(program, "leave", "1", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == {"kind": "fault", "message": "not ready"}
    assert document["result"] is None and document["schema_version"] == SCHEMA_VERSION


def test_reports_of_one_run_do_not_reach_the_next(program, capsys):
    run(program, "work", "good", "--json")
    report(how="outside")  # no run: nothing happens
    capsys.readouterr()
    run(program, "leave", "0", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["result"] is None and document["error"] is None


@pytest.mark.parametrize(
    ("words", "wanted", "kept"),
    [
        (["lights"], False, ["lights"]),
        (["--json", "lights"], True, ["lights"]),
        (["lights", "--json"], True, ["lights"]),
        (["-v", "assets", "list", "--json"], True, ["-v", "assets", "list"]),
        (["score", "x", "--json", "f"], False, ["score", "x", "--json", "f"]),
        (["--json", "score", "x", "--json", "f"], True, ["score", "x", "--json", "f"]),
        (["fit", "--", "--json"], False, ["fit", "--", "--json"]),
    ],
)
def test_the_flag_is_taken_where_it_is_not_the_commands_own(words, wanted, kept):
    assert take_json(words) == (wanted, kept)


def document_of(*words: str, capsys) -> dict:
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_lights_and_assets_report(capsys, tmp_path, monkeypatch):
    lights = document_of("lights", capsys=capsys)["result"]["lights"]
    assert "softboxes" in lights and all(lights.values())
    document = document_of("assets", "list", capsys=capsys)
    assert document["command"] == "assets list"
    assert {"centerface", "pgn-open"} <= {a["name"] for a in document["result"]["assets"]}
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    (tmp_path / "net.json").write_text(json.dumps({"sha256": "0" * 64}))
    document = document_of("assets", "verify", capsys=capsys)
    assert document["exit_code"] == 2 and document["result"]["problems"] == 1
    (bad,) = [f for f in document["result"]["files"] if f["problem"]]
    assert bad["file"] == "net.safetensors" and "damaged" in bad["problem"] and bad["remedy"]


def test_the_document_is_all_that_a_process_writes_on_stdout():
    """Even with a fault before any command runs."""
    words = [sys.executable, "-m", "lifemask.apps.cli", "--json", "assets", "burn"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "user" and "burn" in done.stderr
