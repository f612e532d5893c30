"""What a check found, and what all findings together mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lifemask.assets import UserError

State = Literal["ok", "note", "absent", "broken"]
Look = Callable[[], "Iterable[Finding]"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        group: heading under which it is shown.
        name: what was looked at.
        state: "ok"; "note": works, with something to know; "absent": optional and not there;
            "broken": something that lifemask needs does not work.
        found: in one line.
        remedy: what to do about it, a command where there is one; "" for nothing.
        values: the same for programs; what JSON can hold.
    """

    group: str
    name: str
    state: State
    found: str
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {**vars(self), "values": dict(self.values)}


@dataclass(frozen=True)
class Verdict:
    """Whether lifemask is ready.

    Attributes:
        ready: nothing that it needs is broken.
        line: the same in words, with the first remedy.
    """

    ready: bool
    line: str


def examined(group: str, name: str, look: Look) -> list[Finding]:
    """What a look finds; one that fails is a finding too, so that the others still happen.

    Args:
        group: heading of the finding that tells of a failure.
        name: what it calls the thing looked at.
        look: the check.
    """
    found: list[Finding] = []
    try:
        found.extend(look())
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        if not isinstance(error, UserError):  # those say themselves what to do
            text = f"{type(error).__name__}: {text}"
        found.append(Finding(group, name, "broken", text))
    return found


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Ready unless something is broken; then what, and the remedy of the first that has one."""
    broken = [f for f in findings if f.state == "broken"]
    if not broken:
        return Verdict(True, "ready")
    names = ", ".join(dict.fromkeys(f.name for f in broken))
    remedy = next((f.remedy for f in broken if f.remedy), "")
    ending = f"; remedy: {remedy}" if remedy else "; please report this with what stands above"
    return Verdict(False, f"not ready: {names}{ending}")
