"""How `ltp up`, `status` and `doctor` look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from ltp.up.doctor import Check, Verdict
from ltp.up.record import ProcessState, RunRecord, seconds_since
from ltp.up.status import PlatformStatus

COLOURS = {ProcessState.READY: "green", ProcessState.RESTARTING: "yellow", "not_ready": "yellow"}
VERDICTS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def coming_up(record: RunRecord) -> Table:
    """List how far each process has come."""
    table = Table.grid(padding=(0, 2))
    for entry in record.processes:
        table.add_row(entry.name, _coloured(entry.state), f"{entry.restarts} restarts" if entry.restarts else "")
    table.add_row("", f"[dim]{seconds_since(record.started_at):.1f} s[/]", "")
    return table


def status_table(found: PlatformStatus) -> Table:
    """Show a running platform."""
    urls = found.urls or {}
    title = f"{urls.get('gateway', '')}  pid {found.pid}  {escape(found.data_dir)}"
    table = Table("process", "state", "pid", "restarts", "up", "port", title=title, title_justify="left", box=None)
    for entry in found.processes:
        cells = (entry.pid or "-", entry.restarts, _duration(entry.uptime_seconds), entry.port)
        table.add_row(entry.name, _coloured(entry.state), *map(str, cells))
    return table


def checks_table(checks: Iterable[Check]) -> Table:
    """Show what `ltp doctor` found."""
    table = Table("check", "verdict", box=None)
    table.add_column("found", overflow="fold")
    for check in checks:
        hint = f"\n[dim]{escape(check.hint)}[/]" if check.hint else ""
        verdict = f"[{VERDICTS[check.verdict]}]{check.verdict}[/]"
        table.add_row(check.name, verdict, escape(check.detail) + hint)
    return table


def _coloured(state: str) -> str:
    colour = COLOURS.get(state, "dim")
    return f"[{colour}]{state}[/]"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
