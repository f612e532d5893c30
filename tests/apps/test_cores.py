"""How many workers a machine is worth."""

import pytest

from lifemask.apps import cores


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("150000 100000", 1), ("400000 100000", 4), ("50000 100000", 1),
     ("900000 100000", 8)],
)  # fmt: skip
def test_a_containers_limit_counts(tmp_path, monkeypatch, limit, expected):
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)
    assert cores.usable_cores() == expected
