"""`ltp eval`: run evaluations, follow them, read their samples, judge them anew, import others' results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from ltp.cli import results
from ltp.cli.client import Gateway
from ltp.cli.evaluation_files import read_harness
from ltp.cli.evaluation_labels import calibrate, draw
from ltp.cli.evaluation_lookup import EvaluationId, await_end, find
from ltp.cli.evaluation_text import describe, sample_line, summary
from ltp.cli.jobs import JobId, resolve
from ltp.cli.output import DataDirOption, JsonOption, err, reported, rows_table, show
from ltp.core.errors import ErrorCode, LtpError


class _Group(TyperGroup):
    """`ltp eval JOB` shows a job's scores, as it did before there were commands here."""

    # Any: typer carries a click of its own, whose types it does not name.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            args = ["job", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Group, no_args_is_help=True, help="Evaluate models. `ltp eval JOB` shows a job's scores.")
app.command("job")(results.evaluations)
app.command()(draw)
app.command()(calibrate)


@app.command()
def run(
    dataset: Annotated[list[str], typer.Option("--dataset", "-d", help="Name of a dataset; repeat for several.")],
    model: Annotated[
        str | None, typer.Option(help="Model directory, or with --api / --preset the model's name.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Directory of a LoRA adapter on top of --model.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Id of a training checkpoint.")] = None,
    api: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible endpoint.")] = None,
    preset: Annotated[str | None, typer.Option(help="openai or dashscope, instead of --api.")] = None,
    secret: Annotated[str | None, typer.Option(help="Name of the stored secret with the key.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Requests per minute that the endpoint allows.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds that the endpoint has for an answer. Default: 120.")
    ] = None,
    scorer: Annotated[
        str, typer.Option(help="A scorer's name, or its settings as YAML: '{name: regex, …}'.")
    ] = "exact",
    split: Annotated[str | None, typer.Option(help="Default: test.")] = None,
    max_rows: Annotated[int, typer.Option(min=1)] = 1000,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each row; more than one gives pass@k.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    stop_at: Annotated[float | None, typer.Option(help="Stop once the accuracy is surely above or below.")] = None,
    stop_against: Annotated[str | None, typer.Option(help="Stop once this evaluation is surely beaten or not.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask anew, whatever answers are stored.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress, return when over; exit 1 unless completed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the request only.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a model on the held-out rows of datasets."""
    with reported():
        sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "samples": samples, "seed": seed}
        stop = {"accuracy": stop_at, "baseline_id": stop_against}
        body = {
            "name": name,
            "model": _model(model, adapter, checkpoint, api, preset, secret, rpm, timeout),
            "datasets": [{"name": one, "split": split} for one in dataset],
            "scorer": _scorer(scorer),
            "sampling": sampling,
            "max_rows": max_rows,
            "stop": {key: value for key, value in stop.items() if value is not None} or None,
            "reuse": not fresh,
            "device_kind": device,
            "dry_run": dry_run,
        }
        gateway = Gateway.find(data_dir)
        accepted = gateway.post("/evaluations", json=body)
        for warning in accepted["warnings"]:
            err.print(f"note: {warning}", markup=False)
        found = accepted["evaluations"]
        if wait and not dry_run:
            found = [await_end(gateway, evaluation["evaluation_id"], quiet=json) for evaluation in found]
        show(found, json, lambda: "\n".join(describe(evaluation) for evaluation in found))
        if wait and any(evaluation["state"] != "completed" for evaluation in found) and not dry_run:
            raise typer.Exit(1)


@app.command("list")
def list_all(
    job: Annotated[str | None, typer.Option(help="Only those of a job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List evaluations, newest first."""
    with reported():
        gateway = Gateway.find(data_dir)
        job_id = None if job is None else resolve(gateway, job)
        found = gateway.get("/evaluations", job_id=job_id, limit=limit)["evaluations"]
        columns = ("EVALUATION", "STATE", "MODEL", "DATASET", "SCORER", "ACCURACY", "REQUESTED")
        show(found, json, lambda: rows_table(columns, [summary(evaluation) for evaluation in found]))


@app.command()
def get(evaluation: EvaluationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one evaluation."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/evaluations/{find(gateway, evaluation)}")
        show(found, json, lambda: describe(found))


@app.command()
def wait(evaluation: EvaluationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show progress until an evaluation is over; exit 1 unless it is completed."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = await_end(gateway, find(gateway, evaluation), quiet=json)
        show(found, json, lambda: describe(found))
        if found["state"] != "completed":
            raise typer.Exit(1)


@app.command()
def samples(
    evaluation: EvaluationId,
    outcome: Annotated[str | None, typer.Option(help="right, wrong, error, unparsable or no_reference.")] = None,
    contains: Annotated[str | None, typer.Option(help="Only samples whose prompt or answer holds this text.")] = None,
    label: Annotated[str | None, typer.Option(help="Only rows with this label, as tenant=acme.")] = None,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the model said to each row, and how it was judged."""
    with reported():
        gateway = Gateway.find(data_dir)
        filters = {"outcome": outcome, "contains": contains, "label": label, "offset": offset, "limit": limit}
        page = gateway.get(f"/evaluations/{find(gateway, evaluation)}/samples", **filters)
        columns = ("ROW", "OUTCOME", "PROMPT", "REFERENCE", "RESPONSE", "TOKENS", "SECONDS")
        show(page, json, lambda: rows_table(columns, [sample_line(sample) for sample in page["samples"]]))


@app.command()
def rescore(
    evaluation: EvaluationId,
    scorer: Annotated[str, typer.Option(help="A scorer's name, or its settings as YAML.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is over.")] = False,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be judged anew.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Judge the stored answers by another scorer, as a new evaluation. Nothing is generated."""
    with reported():
        gateway = Gateway.find(data_dir)
        source, body = find(gateway, evaluation), {"scorer": _scorer(scorer), "name": name}
        if dry_run:
            found = gateway.get(f"/evaluations/{source}")
        else:
            found = gateway.post(f"/evaluations/{source}/rescore", json=body)
            found = await_end(gateway, found["evaluation_id"], quiet=json) if wait else found
        show(found, json, lambda: describe(found))
        if wait and not dry_run and found["state"] != "completed":
            raise typer.Exit(1)


@app.command()
def cancel(
    evaluation: EvaluationId,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be cancelled.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Ask that an evaluation end; what was answered stays stored."""
    with reported():
        gateway = Gateway.find(data_dir)
        path = f"/evaluations/{find(gateway, evaluation)}"
        found = gateway.get(path) if dry_run else gateway.post(f"{path}/cancel")
        show(found, json, lambda: f"Cancellation of {found['evaluation_id']} requested.")


@app.command("import")
def import_results(
    path: Annotated[Path, typer.Argument(help="Output directory of lm_eval --log_samples, or one samples_*.jsonl.")],
    model: Annotated[str | None, typer.Option(help="What to call the model.")] = None,
    metric: Annotated[str | None, typer.Option(help="Which metric is the score. Default: the first known one.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all are read.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the files only.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Import results of lm-evaluation-harness, one evaluation a task."""
    with reported():
        uploads = read_harness(path, model, metric)
        if dry_run:
            found = [{"task": u["task"], "metric": u["metric"], "samples": len(u["samples"])} for u in uploads]
            show(found, json, lambda: rows_table(("TASK", "METRIC", "SAMPLES"), [tuple(f.values()) for f in found]))
            return
        gateway = Gateway.find(data_dir)
        found = [gateway.post("/evaluations/import", json=u, params={"name": u["task"][:100]}) for u in uploads]
        if wait:
            found = [await_end(gateway, evaluation["evaluation_id"], quiet=json) for evaluation in found]
        show(found, json, lambda: "\n".join(describe(evaluation) for evaluation in found))
        if wait and any(evaluation["state"] != "completed" for evaluation in found):
            raise typer.Exit(1)


@app.command()
def history(
    job: JobId,
    changed: Annotated[bool, typer.Option("--changed", help="Only rows that flipped.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 30,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show each row over a job's evaluated checkpoints."""
    with reported():
        gateway = Gateway.find(data_dir)
        path = f"/jobs/{resolve(gateway, job)}/evaluations/history"
        found = gateway.get(path, only_changed=changed, limit=limit)
        steps = [e["step"] if e["step"] is not None else "base" for e in found["evaluations"]]
        marks = {"right": "✓", "wrong": "✗", None: "", "error": "!", "unparsable": "?", "no_reference": "-"}
        rows = [
            (row["row_id"], results.short(row["prompt"]), *(marks[o] for o in row["outcomes"])) for row in found["rows"]
        ]
        show(found, json, lambda: rows_table(("ROW", "PROMPT", *map(str, steps)), rows))


def _model(
    model: str | None,
    adapter: str | None,
    checkpoint: str | None,
    api: str | None,
    preset: str | None,
    secret: str | None,
    rpm: float | None,
    timeout: float | None,
) -> dict[str, Any]:
    if checkpoint is not None:
        return {"kind": "checkpoint", "checkpoint_id": checkpoint}
    if model is None:
        raise LtpError(ErrorCode.INVALID_REQUEST, "No model is named.", "Give --model or --checkpoint.")
    if api or preset:
        endpoint = {"kind": "api", "name": model, "base_url": api, "preset": preset, "secret": secret}
        limits = {"requests_per_minute": rpm, "request_seconds": timeout}
        return endpoint | {name: value for name, value in limits.items() if value is not None}
    return {"kind": "local_model", "path": _here(model), "adapter": None if adapter is None else _here(adapter)}


def _here(text: str) -> str:
    """A directory here by its whole path; another name is one below DATA/models."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() else text


def _scorer(text: str) -> Any:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"--scorer is no YAML: {error}", "As '{name: numeric}'.") from error
    return {"name": found} if isinstance(found, str) else found
