"""`ltp eval` and `ltp compare`: run evaluations, read their samples, compare two of them, import others' results."""

from __future__ import annotations

import json as json_format
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from ltp.cli import results
from ltp.cli.client import Gateway
from ltp.cli.comparison_files import write_export
from ltp.cli.jobs import JobId, resolve
from ltp.cli.output import DataDirOption, JsonOption, err, moment, out, reported, rows_table, show
from ltp.comparison_text import percent, report
from ltp.contracts.evaluation import Estimate
from ltp.contracts.evaluation_questions import ComparisonRecord
from ltp.core.errors import ErrorCode, LtpError

_POLL_SECONDS = 0.2
_OVER = {"completed", "failed", "cancelled"}


class _Group(TyperGroup):
    """`ltp eval JOB` shows a job's scores, as it did before there were commands here."""

    # Any: typer carries a click of its own, whose types it does not name.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            args = ["job", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Group, no_args_is_help=True, help="Evaluate models. `ltp eval JOB` shows a job's scores.")
app.command("job")(results.evaluations)

EvaluationId = Annotated[str, typer.Argument(metavar="EVALUATION", help="An evaluation's id, or `last`.")]


@app.command()
def run(
    dataset: Annotated[list[str], typer.Option("--dataset", "-d", help="Name of a dataset; repeat for several.")],
    model: Annotated[
        str | None, typer.Option(help="Model directory, or with --api / --preset the model's name.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Id of a training checkpoint.")] = None,
    api: Annotated[str | None, typer.Option(help="Base URL of an OpenAI-compatible endpoint.")] = None,
    preset: Annotated[str | None, typer.Option(help="openai or dashscope, instead of --api.")] = None,
    secret: Annotated[str | None, typer.Option(help="Name of the stored secret with the key.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Requests per minute that the endpoint allows.")] = None,
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
            "model": _model(model, checkpoint, api, preset, secret, rpm),
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
            found = [_wait(gateway, evaluation["evaluation_id"], quiet=json) for evaluation in found]
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
        show(found, json, lambda: rows_table(columns, [_line(evaluation) for evaluation in found]))


@app.command()
def get(evaluation: EvaluationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one evaluation."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/evaluations/{_resolve(gateway, evaluation)}")
        show(found, json, lambda: describe(found))


@app.command()
def wait(evaluation: EvaluationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show progress until an evaluation is over; exit 1 unless it is completed."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = _wait(gateway, _resolve(gateway, evaluation), quiet=json)
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
        page = gateway.get(f"/evaluations/{_resolve(gateway, evaluation)}/samples", **filters)
        columns = ("ROW", "OUTCOME", "PROMPT", "REFERENCE", "RESPONSE", "TOKENS", "SECONDS")
        show(page, json, lambda: rows_table(columns, [_sample_line(sample) for sample in page["samples"]]))


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
        source, body = _resolve(gateway, evaluation), {"scorer": _scorer(scorer), "name": name}
        if dry_run:
            found = gateway.get(f"/evaluations/{source}")
        else:
            found = gateway.post(f"/evaluations/{source}/rescore", json=body)
            found = _wait(gateway, found["evaluation_id"], quiet=json) if wait else found
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
        path = f"/evaluations/{_resolve(gateway, evaluation)}"
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
        uploads = [_harness(file, model, metric) for file in _sample_files(path)]
        if dry_run:
            found = [{"task": u["task"], "metric": u["metric"], "samples": len(u["samples"])} for u in uploads]
            show(found, json, lambda: rows_table(("TASK", "METRIC", "SAMPLES"), [tuple(f.values()) for f in found]))
            return
        gateway = Gateway.find(data_dir)
        found = [gateway.post("/evaluations/import", json=u, params={"name": u["task"][:100]}) for u in uploads]
        if wait:
            found = [_wait(gateway, evaluation["evaluation_id"], quiet=json) for evaluation in found]
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


def compare(
    first: Annotated[str, typer.Argument(metavar="BEFORE", help="An evaluation's id; or a job's, with nothing after.")],
    second: Annotated[str | None, typer.Argument(metavar="AFTER", help="The evaluation to compare with it.")] = None,
    samples: Annotated[int, typer.Option(min=0, max=200, help="How many rows to show side by side.")] = 5,
    change: Annotated[str | None, typer.Option(help="Only rows that are improved, regressed or unchanged.")] = None,
    label: Annotated[str | None, typer.Option(help="Only rows with this label, as tenant=acme.")] = None,
    contains: Annotated[str | None, typer.Option(help="Only rows whose prompt or answers hold this text.")] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="Labels to look at apart. Default: all.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all rows to a .csv, .parquet or .md file.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until both models of a job are scored.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two evaluations of the same rows, or a job's base and trained model."""
    if second is None:
        results.compare(first, samples, change, wait, data_dir, json)
        return
    with reported():
        gateway = Gateway.find(data_dir)
        before, after = _resolve(gateway, first), _resolve(gateway, second)
        verdict = gateway.get("/comparisons", before=before, after=after, slices=slices or None)
        filters = {"before": before, "after": after, "change": change, "label": label, "contains": contains}
        page: dict[str, Any] = {"total": 0, "pairs": []}
        if samples:
            page = gateway.get("/comparisons/samples", **filters, limit=samples)
        if export is not None:
            count = write_export(export, ComparisonRecord.model_validate(verdict), gateway, filters)
            err.print(f"{count} rows written to {export}", markup=False)
        show({"comparison": verdict, **page}, json, lambda: _verdict(verdict))
        if not json and page["pairs"]:
            columns = ("CHANGE", "ROW", "PROMPT", "REFERENCE", "BEFORE", "AFTER")
            out.print(rows_table(columns, [_pair_line(pair) for pair in page["pairs"]]))


def describe(evaluation: Any) -> str:
    """An evaluation in a few lines."""
    head = f"{evaluation['evaluation_id']}  {evaluation['state']}  {evaluation['model']}"
    lines = [head + (f"  ({evaluation['name']})" if evaluation["name"] else "")]
    if evaluation["dataset"]:
        dataset = evaluation["dataset"]
        lines.append(f"  rows      {dataset['name']}@{dataset['version'][:12]}, split {dataset['split_name']}")
    lines.append(f"  scorer    {evaluation['scorer']}")
    found = evaluation["result"]
    if found:
        lines.append(f"  accuracy  {_accuracy(found['accuracy'])}")
        lines += [f"  pass@{k:<4} {value:.1%}" for k, value in found["pass_at"].items()]
        if found["perplexity"] is not None:
            lines.append(f"  perplexity {found['perplexity']:.4g}")
        usage = found["usage"]
        cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4g}"
        tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens{cost}"
        lines.append(f"  took      {usage['seconds']:.1f} s, {tokens}, {usage['cached']} answers from store")
    lines.append(f"  samples   {counts(evaluation['progress'], evaluation['total'])}")
    if found and found["stopped"]:
        lines.append(f"  stopped   {found['stopped']}")
    lines += [f"  note      {warning}" for warning in (found or {}).get("warnings", [])]
    if evaluation["problem"]:
        problem = evaluation["problem"]
        lines += [f"  {problem['code']}: {problem['message']}", f"  {problem['hint']}"]
    return "\n".join(lines)


def counts(progress: Any, total: int | None) -> str:
    """What became of the samples, each kind apart."""
    errors = sum(progress["errors"].values())
    done = progress["right"] + progress["wrong"] + progress["unparsable"] + errors
    parts = [f"{done}" + (f" of {total}" if total is not None else ""), f"{progress['right']} right"]
    parts.append(f"{progress['wrong']} wrong")
    parts += [f"{progress[name]} {name}" for name in ("truncated", "empty", "unparsable") if progress[name]]
    parts += [f"{count} {kind}" for kind, count in sorted(progress["errors"].items())]
    if progress["without_reference"]:
        parts.append(f"{progress['without_reference']} without reference")
    return ", ".join(parts)


def _accuracy(found: Any) -> str:
    return "none: no sample could be scored" if found is None else percent(Estimate.model_validate(found))


def _model(
    model: str | None,
    checkpoint: str | None,
    api: str | None,
    preset: str | None,
    secret: str | None,
    rpm: float | None,
) -> dict[str, Any]:
    if checkpoint is not None:
        return {"kind": "checkpoint", "checkpoint_id": checkpoint}
    if model is None:
        raise LtpError(ErrorCode.INVALID_REQUEST, "No model is named.", "Give --model or --checkpoint.")
    if api or preset:
        endpoint = {"kind": "api", "name": model, "base_url": api, "preset": preset, "secret": secret}
        return endpoint | ({"requests_per_minute": rpm} if rpm else {})
    path = Path(model).expanduser()
    return {"kind": "local_model", "path": str(path.resolve()) if path.exists() else model}


def _scorer(text: str) -> Any:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"--scorer is no YAML: {error}", "As '{name: numeric}'.") from error
    return {"name": found} if isinstance(found, str) else found


def _wait(gateway: Gateway, evaluation_id: str, *, quiet: bool) -> Any:
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


def _resolve(gateway: Gateway, evaluation: str) -> str:
    if evaluation != "last":
        return evaluation
    found = gateway.get("/evaluations", limit=1)["evaluations"]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, "There are no evaluations yet.", "Start one with `ltp eval run`.")
    return str(found[0]["evaluation_id"])


def _sample_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.rglob("samples_*.jsonl"))
    if not files:
        hint = "Run lm_eval with --log_samples --output_path DIR, and give DIR."
        raise LtpError(ErrorCode.NOT_FOUND, f"There are no samples_*.jsonl in {path}.", hint)
    return files


def _harness(file: Path, model: str | None, metric: str | None) -> dict[str, Any]:
    try:
        lines = [json_format.loads(line) for line in file.read_text().splitlines() if line.strip()]
        first = lines[0]
        known = ("exact_match", "acc", "acc_norm", "pass@1", "pass_at_1", "f1", "bleu")
        chosen = metric or next(name for name in known if isinstance(first.get(name), int | float))
        if chosen not in first:
            raise KeyError(chosen)
    except (OSError, ValueError, LookupError, StopIteration, AttributeError) as error:
        hint = "Give a samples_*.jsonl of lm_eval, and --metric where it has none of the usual ones."
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file} has no metric to import: {error!r}", hint) from error
    # samples_<task>_<date>.jsonl
    task = file.stem.removeprefix("samples_").rpartition("_")[0] or file.stem
    return {"model": model or file.parent.name, "task": task, "metric": chosen, "samples": lines}


def _line(evaluation: Any) -> tuple[Any, ...]:
    found, dataset = evaluation["result"], evaluation["dataset"]
    accuracy = _accuracy(found["accuracy"]) if found else ""
    rows = f"{dataset['name']}/{dataset['split_name']}" if dataset else ""
    requested = moment(evaluation["requested_at"])
    state, model = evaluation["state"], results.short(evaluation["model"])
    return evaluation["evaluation_id"], state, model, rows, evaluation["scorer"], accuracy, requested


def _sample_line(sample: Any) -> tuple[Any, ...]:
    said = sample["response"] if sample["error"] is None else f"{sample['error_kind']}: {sample['error']}"
    outcome = sample["outcome"] + (" (cut off)" if sample["truncated"] else "")
    prompt = sample["prompt"][-1]["content"] if sample["prompt"] else ""
    seconds = None if sample["latency_seconds"] is None else f"{sample['latency_seconds']:.2f}"
    texts = (results.short(prompt), results.short(sample["reference"] or ""), results.short(said))
    return (f"{sample['row_id']}#{sample['sample']}", outcome, *texts, sample["completion_tokens"], seconds)


def _verdict(verdict: Any) -> str:
    lines = "".join(report(ComparisonRecord.model_validate(verdict)))
    # The empty table of rows is printed by the caller.
    return lines.rpartition("\n| row |")[0].removeprefix("# ").rstrip()


def _pair_line(pair: Any) -> tuple[Any, ...]:
    texts = (pair["prompt"], pair["reference"] or "", pair["before_response"], pair["after_response"])
    return (pair["change"], pair["row_id"], *(results.short(text) for text in texts))
