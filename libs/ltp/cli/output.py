"""How every command prints: tables for people, JSON for programs, and errors with code and hint on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltp.core.errors import ErrorCode, LtpError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    out: Console
    err: Console


def __getattr__(name: str) -> Any:
    """`out` and `err`, made when first asked for: rich takes a tenth of a second to import, which `ltp plan` has not."""
    if name not in ("out", "err"):
        raise AttributeError(name)
    from rich.console import Console

    # A pipe has no width to fit into: what it reads must not be cut.
    width = None if sys.stdout.isatty() else 200
    globals()["out"] = Console(highlight=False, soft_wrap=True, width=width)
    globals()["err"] = Console(stderr=True, highlight=False, soft_wrap=True)
    return globals()[name]


# The user called it wrongly; everything else failed.
_WRONG_USE = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_YAML,
        ErrorCode.INVALID_RECIPE,
        ErrorCode.INVALID_PIPELINE,
        ErrorCode.INVALID_SCHEDULE,
    }
)

DataDirOption = Annotated[
    Path | None,
    # readable=False: click would answer for a closed directory with wrong use; ours says what to do
    typer.Option("--data-dir", readable=False, help="Where everything is kept. Default: LTP_DATA_DIR, else ~/.ltp."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


def fail(error: LtpError) -> typer.Exit:
    """Print an error; raise what this returns."""
    typer.secho(error.code, fg="red", bold=True, nl=False, err=True)
    typer.echo(f" {error.message}", err=True)
    if error.hint:
        typer.echo(error.hint, err=True)
    return typer.Exit(2 if error.code in _WRONG_USE else 1)


@contextmanager
def reported() -> Iterator[None]:
    """Turn a known error inside the block into its message and exit code."""
    try:
        yield
    except LtpError as error:
        raise fail(error) from error


def show(value: Any, as_json: bool, table: Callable[[], Table | str]) -> None:
    """Print a value as JSON, or as the table made of it."""
    if as_json:
        typer.echo(json.dumps(value, indent=2, default=str))
        return
    made = table()
    if isinstance(made, str):
        typer.echo(made)
    else:
        __getattr__("out").print(made)


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A plain table."""
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(("" if cell is None else str(cell)) for cell in row))
    return table


def moment(text: str | None) -> str:
    """An instant of the API in local time, to the second."""
    return "" if text is None else datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int | None) -> str:
    """Bytes with a unit."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve as a line of characters; longer series are averaged into `width` cells."""
    if not values:
        return ""
    cells = min(width, len(values))
    means = [_mean(values[i * len(values) // cells : (i + 1) * len(values) // cells]) for i in range(cells)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
