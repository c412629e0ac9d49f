"""A comparison as text that people keep: CSV, or a report in Markdown. The API and the CLI write the same."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from ltp.contracts.evaluation import Estimate
from ltp.contracts.evaluation_questions import ComparisonRecord, PairRecord, PairRecords

COLUMNS = ("row_id", "change", "prompt", "reference", "before_response", "after_response")
COLUMNS += ("before_outcome", "after_outcome", "before_value", "after_value", "labels")
_LONGEST_CELL = 300


async def lines_of(
    kind: str, verdict: ComparisonRecord, first: PairRecords, page: Callable[[int], Awaitable[PairRecords]]
) -> AsyncIterator[str]:
    """The file in parts, page by page."""
    yield csv_lines([list(COLUMNS)]) if kind == "csv" else "".join(report(verdict))
    found, offset = first, 0
    while found.pairs:
        for part in render(kind, found.pairs):
            yield part
        offset += len(found.pairs)
        if offset >= found.total:
            return
        found = await page(offset)


def render(kind: str, pairs: Sequence[PairRecord]) -> Iterator[str]:
    """Rows in either format."""
    if kind == "csv":
        yield csv_lines([list(row_of(pair).values()) for pair in pairs])
        return
    for pair in pairs:
        yield "".join(_markdown_pair(pair))


def row_of(pair: PairRecord) -> dict[str, Any]:
    """A pair as one flat row."""
    row = {name: getattr(pair, name) for name in COLUMNS if name != "labels"}
    return row | {"labels": ";".join(f"{name}={value}" for name, value in sorted(pair.labels.items()))}


def csv_lines(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV. A text that a spreadsheet would take for a formula is quoted as text."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([[_harmless(cell) for cell in row] for row in rows])
    return buffer.getvalue()


def report(verdict: ComparisonRecord) -> Iterator[str]:
    """The head of the report."""
    yield f"# {verdict.headline}\n\n"
    yield f"- before `{verdict.before_id}`: {percent(verdict.before)}\n- after `{verdict.after_id}`: {percent(verdict.after)}\n"
    yield f"- {verdict.rows} rows: {verdict.improved} improved, {verdict.regressed} regressed, {verdict.unchanged} unchanged\n"
    yield f"- paired bootstrap of the difference: {percent(verdict.bootstrap, signed=True)}\n"
    if verdict.minimum_detectable is not None:
        yield f"- smallest gain these rows would show 4 times out of 5: {verdict.minimum_detectable:.1%}\n"
    if verdict.rows_advised is not None:
        yield f"- rows needed to show the difference seen: {verdict.rows_advised}\n"
    for warning in verdict.warnings:
        yield f"- note: {warning}\n"
    if verdict.slices:
        yield "\n| slice | rows | before | after | difference | p (Holm) | verdict |\n|---|---|---|---|---|---|---|\n"
    for part in verdict.slices:
        name = _cell(f"{part.label}={part.value}")
        said = part.verdict + (" (too few changed rows)" if part.too_few else "")
        difference = percent(part.difference, signed=True)
        yield f"| {name} | {part.rows} | {part.before:.1%} | {part.after:.1%} | {difference} | {part.adjusted_p:.2g} | {said} |\n"
    yield "\n| row | change | prompt | reference | before | after |\n|---|---|---|---|---|---|\n"


def percent(estimate: Estimate, *, signed: bool = False) -> str:
    """A share with its interval."""
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.1%} [{estimate.low:{sign}.1%}, {estimate.high:{sign}.1%}]"


def _markdown_pair(pair: PairRecord) -> Iterator[str]:
    cells = (pair.row_id, pair.change, pair.prompt, pair.reference or "", pair.before_response, pair.after_response)
    yield "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    cut = flat if len(flat) <= _LONGEST_CELL else f"{flat[: _LONGEST_CELL - 1]}…"
    return cut.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@"} and not _number(cell) else cell


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
