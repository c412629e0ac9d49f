"""Finds the evaluation that a user means, and follows it until it is over."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.evaluation_text import counts
from ltp.cli.output import err
from ltp.core.errors import ErrorCode, LtpError

_POLL_SECONDS = 0.2
_OVER = {"completed", "failed", "cancelled"}

EvaluationId = Annotated[str, typer.Argument(metavar="EVALUATION", help="An evaluation's id, or `last`.")]


def await_end(gateway: Gateway, evaluation_id: str, *, quiet: bool) -> Any:
    """The evaluation once it is over; says how far it is unless `quiet`."""
    last = ""
    while True:
        found = gateway.get(f"/evaluations/{evaluation_id}")
        line = f"{found['state']}: {counts(found['progress'], found['total'])}"
        if line != last and not quiet:
            err.print(line, markup=False)
        last = line
        if found["state"] in _OVER:
            return found
        time.sleep(_POLL_SECONDS)


def find(gateway: Gateway, evaluation: str) -> str:
    """The id that is meant. Raises LtpError NOT_FOUND."""
    if evaluation != "last":
        return evaluation
    found = gateway.get("/evaluations", limit=1)["evaluations"]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, "There are no evaluations yet.", "Start one with `ltp eval run`.")
    return str(found[0]["evaluation_id"])
