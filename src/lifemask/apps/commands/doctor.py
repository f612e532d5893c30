"""`lifemask doctor`: what is installed, on which device, with which weights, and does it work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lifemask.apps.commands.reconstruct import Device, Weights
from lifemask.apps.session import Status, report, report_failure
from lifemask.assets import UserError

if TYPE_CHECKING:
    from lifemask.apps.doctor import Finding, Verdict

FAMILIES = ("open", "research")
MARKS = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "absent": "[dim]–[/]", "broken": "[red]✗[/]"}


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the self-test, which takes seconds.")
    ] = False,
    weights: Weights = "open",
    device: Device = "cpu",
) -> None:
    """Tell what is installed, on which device and with which weights, and test it.

    The self-test reconstructs the sample portrait and checks the head that comes out. Exit status
    0: ready; 1: something that lifemask needs does not work, and the last line says what to do.
    """
    from lifemask.apps.doctor import verdict_of

    if weights not in FAMILIES:
        raise UserError(f"unknown weights {weights!r}; valid: {', '.join(FAMILIES)}")
    found: list[Finding] = []
    group = ""
    for finding in _findings(quick, weights, device):
        found.append(finding)
        if finding.group != group:
            group = finding.group
            _show_group(group)
        _show(finding)
    verdict = verdict_of(found)
    _show_verdict(verdict)
    report(
        ready=verdict.ready,
        verdict=verdict.line,
        weights=weights,
        device=device,
        findings=[f.record() for f in found],
    )
    if not verdict.ready:
        report_failure(verdict.line)
        raise typer.Exit(Status.FAULT)


def _findings(quick: bool, weights: str, device: str) -> Iterator[Finding]:
    """Every check, in the order in which they are shown."""
    from lifemask.apps.doctor import examined, machine, packages
    from lifemask.apps.doctor import weights as files

    for group, name, look in (
        (machine.GROUP, "system", machine.system),
        (machine.GROUP, "processors", machine.processors),
        (machine.GROUP, "memory", machine.memory),
        (machine.GROUP, "folders", machine.folders),
        (machine.GROUP, "ffmpeg", machine.ffmpeg),
        (packages.GROUP, "packages", packages.required),
        (packages.GROUP, "torch", packages.torch_devices),
        (packages.GROUP, "onnxruntime", packages.onnx_providers),
        (packages.GROUP, "numba", packages.numba_compiles),
        (packages.EXTRAS_GROUP, "extras", packages.extras),
        (files.GROUP, "weights", files.weights),
    ):
        yield from examined(group, name, look)
    if not quick:
        with _waiting():
            tested = examined("self-test", "self-test", lambda: _self_test(weights, device))
        yield from tested


def _self_test(weights: str, device: str) -> Sequence[Finding]:
    from lifemask.apps.doctor.selftest import self_test
    from lifemask.pipeline import PipelineConfig

    config = PipelineConfig(weights=weights, device=device)  # pyright: ignore[reportArgumentType]
    return list(self_test(config))


def _waiting():
    """A spinner on a terminal while the self-test runs."""
    from rich.console import Console

    return Console(stderr=True).status("self-test: the sample portrait becomes a head")


def _show_group(group: str) -> None:
    console = _console()
    if console is None:
        typer.echo(f"{group}:")
    else:
        console.print(f"\n[bold]{group}[/]")


def _show(finding: Finding) -> None:
    """One finding: a row on a terminal, a plain line in a file or pipe."""
    console = _console()
    if console is None:
        typer.echo(f"  {finding.state:6} {finding.name}: {finding.found}")
        if finding.remedy:
            typer.echo(f"         remedy: {finding.remedy}")
        return
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    row.add_column(width=3, justify="right")
    row.add_column(width=15, overflow="fold")
    row.add_column(overflow="fold")
    text = Text(finding.found, style="dim" if finding.state == "absent" else "")
    if finding.remedy:
        text.append(f"\n→ {finding.remedy}", style="cyan")
    row.add_row(MARKS[finding.state], Text(finding.name), text)
    console.print(row)


def _show_verdict(verdict: Verdict) -> None:
    console = _console()
    if console is None:
        typer.echo(verdict.line)
        return
    from rich.text import Text

    style = "bold green" if verdict.ready else "bold red"
    console.print()
    console.print(Text(verdict.line, style=style))


def _console():
    """The terminal; None where the output goes into a file or a pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else None
