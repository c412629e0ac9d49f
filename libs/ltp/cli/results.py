"""`ltp checkpoints`, `ltp eval JOB` and `ltp compare JOB`: what a job left behind."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.jobs import JobId, resolve
from ltp.cli.output import DataDirOption, JsonOption, out, reported, rows_table, show, size
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 3600.0


def checkpoints(job: JobId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the complete checkpoints of a job and where each was exported to."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/jobs/{resolve(gateway, job)}/checkpoints")
        rows = [
            (
                c["written"]["step"],
                size(c["written"]["size_bytes"]),
                c["exported"]["path"] if c["exported"] else c["failed"]["problem"]["message"] if c["failed"] else "…",
            )
            for c in found
        ]
        show(found, json, lambda: rows_table(("STEP", "SIZE", "EXPORTED TO"), rows))


def evaluations(job: JobId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show the scores of a job's models, with their 95 % intervals."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/jobs/{resolve(gateway, job)}/evaluations")
        rows = [
            (e["subject_kind"], describe_score(e["score"]), e["scorer"], e["model_path"]) for e in found["completed"]
        ]
        rows += [(e["subject_kind"], f"failed: {e['problem']['message']}", "", "") for e in found["failed"]]
        show(found, json, lambda: rows_table(("MODEL", "ACCURACY", "SCORER", "PATH"), rows))


def compare(
    job: JobId,
    samples: Annotated[int, typer.Option(min=0, max=200, help="How many rows to show side by side.")] = 5,
    change: Annotated[str | None, typer.Option(help="Only rows that are improved, regressed or unchanged.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until both models are scored.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Compare base and trained model on the same held-out rows."""
    with reported():
        gateway = Gateway.find(data_dir)
        job_id = resolve(gateway, job)
        verdict = await_comparison(gateway, job_id) if wait else gateway.get(f"/jobs/{job_id}/comparison")
        page: dict[str, Any] = {"samples": []}
        if samples:
            page = gateway.get(f"/jobs/{job_id}/comparison/samples", limit=samples, change=change)
        show({"comparison": verdict, **page}, json, lambda: describe_comparison(verdict))
        if not json and page["samples"]:
            columns = ("CHANGE", "PROMPT", "REFERENCE", "BASE", "TRAINED")
            out.print(rows_table(columns, [_pair(pair) for pair in page["samples"]]))


def await_comparison(gateway: Gateway, job_id: str) -> Any:
    """Return the comparison once there is one. Raises what prevents it: a job without its result, a failed evaluation."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = gateway.get("/events", job_id=job_id, subject="ltp.comparison.v1.completed")
        if found:
            return found[0]["data"]
        job = gateway.get(f"/jobs/{job_id}")
        if job["recipe"]["evaluation"] is None or job["state"] in {"failed", "cancelled"}:
            why = f"is {job['state']}" if job["recipe"]["evaluation"] else "has no `evaluation:` in its recipe"
            raise LtpError(ErrorCode.NOT_FOUND, f"Job {job_id} {why}, so there will be no comparison.", "")
        for failed in gateway.get(f"/jobs/{job_id}/evaluations")["failed"]:
            raise Problem.model_validate(failed["problem"]).error()
        time.sleep(_POLL_SECONDS)
    raise LtpError(ErrorCode.EVALUATION_FAILED, "No comparison came within the hour.", "See the evaluator's log.")


def describe_score(score: Any) -> str:
    """An accuracy with its interval."""
    counts = f"{score['correct']} of {score['total']}"
    if score["truncated"]:
        counts += f", {score['truncated']} cut off"
    return f"{score['accuracy']:.1%} [{score['low']:.1%}, {score['high']:.1%}] ({counts})"


def describe_comparison(verdict: Any) -> str:
    """A comparison in a few lines."""
    interval = f"[{verdict['difference_low']:+.1%}, {verdict['difference_high']:+.1%}]"
    lines = [
        f"{verdict['verdict']}: {verdict['difference']:+.1%} {interval}, p = {verdict['p_value']:.2g}",
        f"  before  {describe_score(verdict['base'])}",
        f"  after   {describe_score(verdict['trained'])}",
        f"  rows    {verdict['improved']} improved, {verdict['regressed']} regressed, {verdict['unchanged']} unchanged",
    ]
    return "\n".join(lines)


def _pair(pair: Any) -> tuple[str, ...]:
    return (
        pair["change"],
        *(short(pair[key]) for key in ("prompt", "reference", "base_response", "trained_response")),
    )


def short(text: str) -> str:
    """A text on one line, cut to what a table has room for."""
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else f"{flat[:59]}…"
