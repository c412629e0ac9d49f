"""One line of a benchmark: ours against the peer's, measured in the same run, with the bar it is held to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """What was measured. `ratio` > 1 means that ours is better; `bar` is the ratio (or value, see `of`) to reach."""

    name: str
    ours: float
    peer: float | None
    peer_name: str
    ratio: float
    bar: float | None
    met: bool | None
    unit: str
    runs: int
    spread: float  # (max - min) / median of our runs


def lower_is_better(
    name: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, *, unit: str, bar: float | None
) -> Result:
    """Times, bytes: ratio = peer / ours, of the medians."""
    mine, theirs = statistics.median(ours), statistics.median(peer)
    return _of(name, ours, mine, theirs, peer_name, theirs / mine, bar, unit)


def higher_is_better(
    name: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, *, unit: str, bar: float | None
) -> Result:
    """Throughputs: ratio = ours / peer, of the medians."""
    mine, theirs = statistics.median(ours), statistics.median(peer)
    return _of(name, ours, mine, theirs, peer_name, mine / theirs, bar, unit)


def at_most(name: str, ours: Sequence[float], limit: float, *, unit: str) -> Result:
    """A value held against a limit that is no peer's: ratio = limit / ours, bar 1."""
    mine = statistics.median(ours)
    return _of(name, ours, mine, None, f"limit {limit:g} {unit}", limit / mine if mine else float("inf"), 1.0, unit)


def at_least(name: str, ours: Sequence[float], limit: float, *, unit: str) -> Result:
    """A value held against a floor that is no peer's: ratio = ours / limit, bar 1."""
    mine = statistics.median(ours)
    return _of(name, ours, mine, None, f"floor {limit:g} {unit}", mine / limit, 1.0, unit)


def _of(
    name: str,
    runs: Sequence[float],
    mine: float,
    theirs: float | None,
    peer_name: str,
    ratio: float,
    bar: float | None,
    unit: str,
) -> Result:
    spread = (max(runs) - min(runs)) / mine if mine else 0.0
    met = None if bar is None else ratio >= bar
    return Result(name, mine, theirs, peer_name, ratio, bar, met, unit, len(runs), spread)


def forget(suite: str) -> None:
    """Remove the results of a suite that is about to be run as a whole."""
    (RESULTS / f"{suite}.json").unlink(missing_ok=True)


def report(suite: str, results: Sequence[Result]) -> Path:
    """Put the lines into `results/<suite>.json`, in place of earlier ones of the same names, and print them as a table."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{suite}.json"
    lines = {line["name"]: line for line in (json.loads(path.read_text()) if path.exists() else [])}
    lines.update({r.name: asdict(r) for r in results})
    path.write_text(json.dumps(list(lines.values()), indent=1) + "\n")
    table = Table(title=suite)
    for column in ("name", "ours", "peer", "ratio", "bar", "met", "unit", "runs", "spread"):
        table.add_column(column)
    for r in results:
        peer = r.peer_name if r.peer is None else f"{r.peer:.4g} {r.peer_name}"
        met = "" if r.met is None else "yes" if r.met else "NO"
        bar = "" if r.bar is None else f"{r.bar:g}"
        table.add_row(r.name, f"{r.ours:.4g}", peer, f"{r.ratio:.3g}", bar, met, r.unit, str(r.runs), f"{r.spread:.0%}")
    Console().print(table)
    return path
