"""Pages from stored scores: tables, cumulative curves, published numbers beside ours.

Everything here takes what `evaluation.score` wrote (and `benchmarks/published.json`), nothing else:
no data set and no network is needed to write a report again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lifemask.evaluation import metrics
from lifemask.evaluation.canvas import Canvas
from lifemask.evaluation.charts import cumulative_canvas

Result = dict[str, Any]
CURVES = {
    "nme_68": (68, "68 points"),
    "nme_51": (51, "inner 51 points"),
    "nme_21": (21, "21 points"),
}
"""Keys of "per_image" that have a curve: number of points, and words for the title."""

CELL = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number_text(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where there is none."""
    return CELL if value is None else f"{value:.{digits}f}"


def with_interval(entry: Result) -> str:
    """Value and interval of one number, "4.60 (3.97-5.40)"."""
    low, high = entry.get("ci95") or (None, None)
    value = number_text(entry["value"])
    return value if low is None else f"{value} ({number_text(low)}-{number_text(high)})"


def numbers_with(result: Result, metric: str = "nme_percent", **flags: Any) -> list[Result]:
    """The entries of a result whose flags contain the given ones."""
    return [
        entry
        for entry in result["numbers"]
        if entry["metric"] == metric and flags.items() <= entry["flags"].items()
    ]


def one_number(result: Result, metric: str = "nme_percent", **flags: Any) -> Result:
    """The one entry whose flags contain the given ones.

    Raises:
        ValueError: there is none, or several.
    """
    found = numbers_with(result, metric, **flags)
    if len(found) != 1:
        raise ValueError(f"{len(found)} numbers have the flags {flags}")
    return found[0]


def system_name(result: Result) -> str:
    """What tables and legends call a scored system."""
    if "system" in result:
        system = result["system"]
        return system if isinstance(system, str) else " ".join(system)
    meta = result.get("predictions", {}).get("meta", {})
    parts = [meta[key] for key in ("system", "method", "weights", "box") if key in meta]
    return " ".join(parts) or result.get("predictions", {}).get("file", "unnamed")


def groups(results: Mapping[str, Result]) -> dict[str, dict[str, Result]]:
    """Scored results by data set ("aflw2000-dev"), each a mapping from name to result."""
    out: dict[str, dict[str, Result]] = {}
    for name, result in flattened(results).items():
        if "protocol" in result and "numbers" in result:
            out.setdefault(result.get("dataset", result["protocol"]), {})[name] = result
    return out


def curves(results: Mapping[str, Result]) -> dict[str, Canvas]:
    """Cumulative error curves by file stem: one per data set and point set, or mesh distance.

    A legend shows each system's mean, pooled as the protocol's main number (over bins where the
    stored result has bins). Curves of meshes are those of the first column of "per_item", in which
    a failure is never reached.
    """
    out = {}
    for dataset, scored in groups(results).items():
        for key, (_, words) in CURVES.items():
            errors = {r: e for r in scored if (e := _errors(scored[r], key)) is not None}
            title = f"{dataset}, {words}: share of images below an error"
            out |= _chart(f"{dataset}-{key}", title, "NME, %", errors, scored)
        for key in dict.fromkeys(_main_column(r) for r in scored.values()):
            if key is not None:
                errors = {
                    r: _column(scored[r], key) for r in scored if key == _main_column(scored[r])
                }
                name = key.replace("_", " ")
                title = f"{dataset}: share of meshes below an error"
                out |= _chart(f"{dataset}-{key}", title, name, errors, scored)
    return out


def _errors(result: Result, key: str) -> np.ndarray | None:
    kept = result.get("per_image", {})
    return metrics.unpacked(kept[key]) if key in kept else None


def _main_column(result: Result) -> str | None:
    """The first list of numbers in "per_item"."""
    return next((key for key in result.get("per_item", {}) if key != "names"), None)


def _column(result: Result, key: str) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in result["per_item"][key]], np.float64)


def _chart(
    stem: str,
    title: str,
    x_label: str,
    errors: Mapping[str, np.ndarray],
    scored: Mapping[str, Result],
) -> dict[str, Canvas]:
    """One chart of the systems that have errors, the best first; none if there are none."""
    errors = {name: e for name, e in errors.items() if np.isfinite(e).any()}
    if not errors:
        return {}
    names = {result: system_name(scored[result]) for result in errors}
    means = {names[r]: _pooled(e, scored[r].get("per_image", {})) for r, e in errors.items()}
    shown = {names[r]: errors[r] for r in sorted(errors, key=lambda r: means[names[r]])}
    x_max = _x_max(errors.values())
    return {stem: cumulative_canvas(shown, x_label, title, x_max, means)}


def difference_rows(
    scored: Mapping[str, Result], reference: str, key: str = "nme_68"
) -> list[list[str]]:
    """Each system minus a reference on the same images: name, difference, and that of found faces.

    Differences have their paired 95 % interval; the second is over the faces that both found.

    Args:
        scored: results of one data set by name.
        reference: the name of one of them.
        key: errors of "per_image" that are compared.
    """
    base = scored[reference].get("per_image", {})
    rows = []
    for name, result in scored.items():
        kept = result.get("per_image", {})
        if name == reference or key not in kept or key not in base:
            continue
        first, second = metrics.unpacked(kept[key]), metrics.unpacked(base[key])
        bins = _bins(kept, len(first))
        pool = "bins" if "bins" in kept else "images"
        both = metrics.found_by_both(kept, base)
        cells = [_difference(first - second, bins, pool)]
        if both is not None:
            cells.append(_difference(np.where(both, first - second, np.nan), bins, pool))
        rows.append([system_name(result), cells[0], cells[-1]])
    return rows


def _difference(values: np.ndarray, bins: np.ndarray, pool: metrics.Pool) -> str:
    """Pooled difference and interval, and whether it is none."""
    found = metrics.paired_difference(values, np.zeros_like(values), bins, pool)
    low, high = found.ci95
    text = f"{found.value:+.2f} ({low:+.2f} to {high:+.2f})"
    return text if found.significant else f"{text}: none shown"


def suspicion_rows(scored: Mapping[str, Result]) -> list[list[str]]:
    """Systems whose predictions look wrong: name, check, advice."""
    return [
        [system_name(result), check["check"], check["message"]]
        for result in scored.values()
        for check in result.get("checks", [])
        if check["suspicious"]
    ]


def published_lines(
    published: Result, protocol: str, ours: Mapping[str, Result] | None = None
) -> list[str]:
    """Markdown tables of others' numbers for one protocol, ours below where flags agree.

    Args:
        published: content of `benchmarks/published.json`.
        protocol: key of `evaluation.score.PROTOCOLS`.
        ours: our results of that protocol by name; rows are added where a result has a number
            with the table's flags.
    """
    lines: list[str] = []
    for entry in published["tables"]:
        if entry["protocol"] != protocol:
            continue
        columns, digits = entry["columns"], _digits(entry)
        rows = [
            [row["method"], *_cells(row["values"], digits), _mark(row)] for row in entry["rows"]
        ]
        for result in (ours or {}).values():
            if row := _our_row(result, entry):
                rows.append(row)
        lines += [f"**{entry['table']}**", "", *table(("method", *columns, "mark"), rows), ""]
    return lines


def score_lines(scored: Mapping[str, Result]) -> list[str]:
    """All numbers of some results of one protocol, a column per system.

    Flags that all numbers share stand above the table, the others beside each number.
    """
    entries = [(name, e) for name, r in scored.items() for e in r["numbers"]]
    common = dict.fromkeys(entries[0][1]["flags"].items()) if entries else {}
    for _, entry in entries:
        common = {flag: None for flag in common if flag in entry["flags"].items()}
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for name, entry in entries:
        own = [f for f in entry["flags"].items() if f not in common and f[0] != "misses"]
        row = cells.setdefault((entry["metric"], _flag_text(own)), {})
        row[name] = with_interval(entry)
    head = ("number", "flags", *(_column_name(result) for result in scored.values()))
    rows = [[*key, *(row.get(name, CELL) for name in scored)] for key, row in cells.items()]
    shared = [f for f in common if f[0] != "misses"]
    above = [f"All numbers (95 % interval): {_flag_text(shared)}.", ""] if shared else []
    return above + table(head, rows)


def flattened(results: Mapping[str, Result]) -> dict[str, Result]:
    """Results in which a file of several systems, or with controls, has become several results."""
    out = {}
    for name, result in results.items():
        parts = result.get("systems")
        if "protocol" in result and isinstance(parts, dict):
            shared = {k: v for k, v in result.items() if k != "systems"}
            out |= {f"{name}, {s}": shared | {"system": s} | part for s, part in parts.items()}
        else:
            out[name] = result
            for control, numbers in result.get("controls", {}).items():
                out[f"{name}, {control}"] = _control(result, control, numbers)
    return out


def _control(result: Result, control: str, numbers: Sequence[Result]) -> Result:
    """A control's numbers under the flags of the result's own numbers that they belong to."""
    entries = []
    for number in numbers:
        own = numbers_with(result, number["metric"], **number["flags"])
        entries += [number | {"flags": own[0]["flags"]}] if len(own) == 1 else []
    kept = {k: result[k] for k in ("protocol", "dataset", "images", "meshes") if k in result}
    return kept | {"system": f"{system_name(result)}: {control}", "numbers": entries}


def _flag_text(flags: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in flags)


def _column_name(result: Result) -> str:
    """System, how many items were scored, and how many missed."""
    count = result.get("images", result.get("meshes"))
    missed = result.get("misses", {}).get("total", 0)
    notes = ([str(count)] if count is not None else []) + ([f"{missed} missed"] if missed else [])
    return system_name(result) + (f" ({', '.join(notes)})" if notes else "")


def _our_row(result: Result, entry: Result) -> list[str] | None:
    """Our numbers in a published table's columns, or None where no number has its flags."""
    found = _our_values(result, entry) if "numbers" in result else None
    if found is None:
        return None
    values, images = found
    cells = _cells(values, _digits(entry))
    photos = f"ours, {result.get('dataset', 'full set')}, {images} images"
    missed = result.get("misses", {}).get("total", 0)
    return [f"**{system_name(result)}**", *cells, photos + (f", {missed} missed" if missed else "")]


def _our_values(result: Result, entry: Result) -> tuple[dict[str, float | None], int] | None:
    """Values by column, and how many images they count; a table's "metrics" name its columns'."""
    columns: dict[str, str] = entry.get("metrics", {})
    if not columns:
        found = numbers_with(result, **entry["flags"]) if "points" in entry["flags"] else []
        if len(found) != 1:
            return None
        return found[0].get("bins", {}) | {"mean": found[0]["value"]}, result["images"]
    of_column = {c: numbers_with(result, m, **entry["flags"]) for c, m in columns.items()}
    if any(len(found) != 1 for found in of_column.values()):
        return None
    values = {column: found[0]["value"] for column, found in of_column.items()}
    return values, next(iter(of_column.values()))[0]["images"]


def _digits(entry: Result) -> dict[str, int]:
    """Decimals of each column: two, or three where all numbers are below one."""
    values = {c: [row["values"].get(c, 0.0) for row in entry["rows"]] for c in entry["columns"]}
    return {column: 3 if max(numbers) < 1 else 2 for column, numbers in values.items()}


def _cells(values: Mapping[str, float | None], digits: Mapping[str, int]) -> list[str]:
    return [number_text(values.get(column), count) for column, count in digits.items()]


def _mark(row: Result) -> str:
    return f"{row['mark']}: {row['source']}" if row.get("source") else row["mark"]


def _pooled(errors: np.ndarray, kept: Result) -> float:
    pool = "bins" if "bins" in kept else "images"
    value = metrics.pooled(errors, _bins(kept, len(errors)), pool)
    return (
        value if np.isfinite(value) else metrics.pooled(errors, _bins(kept, len(errors)), "images")
    )


def _bins(kept: Result, count: int) -> np.ndarray:
    return np.array([int(b) for b in kept["bins"]]) if "bins" in kept else np.zeros(count, int)


def _x_max(errors: Iterable[np.ndarray]) -> float:
    """A round right end, somewhat beyond nine in ten items of the best system."""
    high = 1.3 * min(float(np.nanpercentile(values, 90)) for values in errors)
    power = 10.0 ** np.floor(np.log10(max(high, 1e-6)))
    return float(next(x * power for x in (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 10.0) if x * power >= high))
