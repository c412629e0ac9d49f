"""`ltp merge` and `ltp operation`: make models out of models, on the platform or in a process of this command's own."""

from __future__ import annotations

import json as json_format
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, err, moment, reported, rows_table, show, size
from ltp.cli.yaml_files import yaml_text
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import OPERATION, OperationState
from ltp.recipe_text import parse_merge

app = typer.Typer(no_args_is_help=True, help="Follow and steer operations on models.")

OperationId = Annotated[str, typer.Argument(metavar="OPERATION", help="An operation's id, or `last`.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="What random choices follow from.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it is over; exit 1 unless it succeeded.")]
LocalOption = Annotated[bool, typer.Option("--local", help="Without a platform, here and now; OUT is a path.")]
ProofOption = Annotated[bool, typer.Option("--proof/--no-proof", help="Load the result and read it back.")]
EvaluateOption = Annotated[
    str | None,
    typer.Option(
        metavar="DATASET|FILE|JSON",
        help="Evaluate the result: a dataset's name, or {datasets: [{name, split}], scorer, max_rows, min_accuracy}.",
    ),
]
DeviceOption = Annotated[
    Literal["cpu", "gpu", "auto"],
    typer.Option("--device", help="What computes it: gpu leases one, auto takes one where there is one."),
]
NoteOption = Annotated[str, typer.Option("--note", help="Why.")]

_POLL_SECONDS = 0.3
_SETTLE_SECONDS = 20.0
_UNSETTLED = {OperationState.QUEUED, OperationState.RUNNING}


def merge(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A merge in mergekit's YAML; `-` reads standard input.")
    ],
    out: Annotated[str, typer.Option("--out", help="The result's name: it is written to DATA/models/NAME.")],
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    wait: WaitOption = False,
    local: LocalOption = False,
    proof: ProofOption = True,
    evaluate: EvaluateOption = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Merge models by a recipe in mergekit's format."""
    with reported():
        recipe = read_merge(config)
        spec = {"kind": "merge", "name": out, "recipe": recipe, "seed": seed, "proof": proof, "device": device}
        spec |= evaluation_of(evaluate)
        carry_out(spec, dry_run=dry_run, wait=wait, local=local, data_dir=data_dir, json=json)


@app.command("extract-lora")
def extract_lora(
    model: Annotated[str, typer.Argument(help="The model, by name or path.")],
    base_model: Annotated[str, typer.Option("--base", help="What it was trained from.")],
    out: Annotated[str, typer.Option("--out", help="The adapter's name.")],
    rank: Annotated[int, typer.Option(min=1, max=4096, help="Rank of the adapter.")] = 16,
    modules: Annotated[str | None, typer.Option(help="Regular expression on weights. Default: linear ones.")] = None,
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    wait: WaitOption = False,
    local: LocalOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Turn the difference between a model and its base into a LoRA adapter."""
    with reported():
        recipe = {"model": absolute(model), "base_model": absolute(base_model), "rank": rank}
        recipe |= {"modules": modules} if modules else {}
        spec = {"kind": "lora", "name": out, "recipe": recipe, "seed": seed}
        carry_out(spec, dry_run=dry_run, wait=wait, local=local, data_dir=data_dir, json=json)


@app.command()
def diff(
    model: Annotated[str, typer.Argument(help="The model, by name or path, or a checkpoint's id.")],
    base_model: Annotated[str, typer.Option("--base", help="What it is compared with.")],
    out: Annotated[str, typer.Option("--out", help="The report's name, beside the models.")],
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    local: LocalOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Report how far a model lies from another, layer by layer: relative change and cosine."""
    with reported():
        recipe = {"model": absolute(model), "base_model": absolute(base_model)}
        spec = {"kind": "diff", "name": out, "recipe": recipe}
        carry_out(spec, dry_run=dry_run, wait=wait, local=local, data_dir=data_dir, json=json)


@app.command("list")
def list_all(
    state: Annotated[OperationState | None, typer.Option(help="Only operations in this state.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List operations, newest first."""
    with reported():
        found = Gateway.find(data_dir).get("/operations", state=state, limit=100)
        columns = ("OPERATION", "KIND", "NAME", "STATE", "REQUESTED")
        rows = [(o["operation_id"], o["kind"], o["name"], o["state"], moment(o["requested_at"])) for o in found]
        show(found, json, lambda: rows_table(columns, rows))


@app.command()
def get(operation: OperationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one operation."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/operations/{resolve(gateway, operation)}")
        show(found, json, lambda: describe(found))


@app.command()
def cancel(operation: OperationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """End an operation; what is half done is removed."""
    _ask(operation, "cancel", data_dir, json, settled=True)


@app.command()
def pause(operation: OperationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Stop an operation for now; what is done is kept."""
    _ask(operation, "pause", data_dir, json, settled=True)


@app.command()
def resume(operation: OperationId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Let a paused operation go on where it was."""
    _ask(operation, "resume", data_dir, json)


@app.command()
def accept(
    operation: OperationId, note: NoteOption = "", data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Find a result good."""
    _ask(operation, "accept", data_dir, json, {"note": note})


@app.command()
def reject(
    operation: OperationId, note: NoteOption = "", data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Find a result not good. It stays on the disk."""
    _ask(operation, "reject", data_dir, json, {"note": note})


def read_merge(path: Path) -> dict[str, Any]:
    """Read and check a merge here, so that errors name line and column; models beside it are taken from this directory."""
    recipe = parse_merge(*yaml_text(path))
    return recipe.with_references({name: absolute(name) for name in recipe.paths()}).settings()


def evaluation_of(text: str | None) -> dict[str, Any]:
    """The part of a request that asks for an evaluation of the result. Raises INVALID_YAML, INVALID_REQUEST."""
    if text is None:
        return {}
    source = Path(text).read_text() if Path(text).is_file() else text
    try:
        value: object = yaml.safe_load(source)
    except yaml.YAMLError as error:
        raise LtpError(ErrorCode.INVALID_YAML, f"--evaluate: {error}", "A dataset's name, a file, or JSON.") from error
    if isinstance(value, str):
        return {"evaluate": {"datasets": [{"name": value}]}}
    if not isinstance(value, dict):
        raise LtpError(ErrorCode.INVALID_REQUEST, f"--evaluate {text!r} names no dataset.", "As sums, or JSON.")
    return {"evaluate": value}  # pyright: ignore[reportUnknownVariableType]


def resolve(gateway: Gateway, operation: str) -> str:
    """An operation's id; `last` is the newest."""
    if operation != "last":
        return operation
    found = gateway.get("/operations", limit=1)
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, "There are no operations yet.", "Start one with `ltp merge CONFIG`.")
    return str(found[0]["operation_id"])


def wait_until_over(gateway: Gateway, operation: Any) -> Any:
    """Return the operation once it is in a final state."""
    while not OPERATION.is_over(OperationState(operation["state"])):
        time.sleep(_POLL_SECONDS)
        operation = gateway.get(f"/operations/{operation['operation_id']}")
    return operation


def describe(operation: Any) -> str:
    """An operation in a few lines."""
    lines = [f"{operation['name']}  {operation['state']}  {operation['operation_id']}"]
    if operation["progress"]:
        lines.append(f"  {_progress_line(operation['progress'])}")
    if operation["result"]:
        lines.append(describe_result(operation["result"]))
    if operation["problem"]:
        lines += [f"  {operation['problem']['code']}: {operation['problem']['message']}"]
        lines += [f"  {operation['problem']['hint']}"]
    if operation["decision"]:
        lines.append(f"  {operation['decision']}  {operation['decision_note'] or ''}")
    return "\n".join(lines)


def describe_result(result: Any) -> str:
    """Where a result lies and how it was proved."""
    lines = [f"  path    {result['path']}", f"  digest  {result['digest']}{' (reused)' if result['reused'] else ''}"]
    proof = result["proof"] or {}
    if proof.get("perplexity") is not None:
        lines.append(f"  proof   loads, perplexity {proof['perplexity']:.2f} on plain English")
    elif proof.get("skipped"):
        lines.append(f"  proof   skipped: {proof['skipped']}")
    if result.get("report"):
        lines += describe_report(result["report"])
    return "\n".join(lines)


def describe_plan(found: Any) -> str:
    """What an operation would do."""
    count = len(found["models"])
    lines = [
        f"{found['method']} of {count} model{'s' if count > 1 else ''}, {found['tensors']} tensors, to {found['out']}"
    ]
    weights = {w["model"]: f"  {w['weight']:g}" for w in found.get("weights", [])}
    lines += [f"  {reference}{weights.get(reference, '')}" for reference in found["models"]]
    sizes = [f"{label} {size(found[key])}" for key, label in _SIZES if key in found]
    lines += [f"  {', '.join(sizes)}", f"  digest {found['digest']}{' (exists already)' if found['reused'] else ''}"]
    lines += [f"  {f['severity']}: {f['message']}" for f in found["findings"]]
    return "\n".join(lines)


def describe_report(report: Any) -> list[str]:
    """What an operation found out: a difference, a choice, a soup, an export read back."""
    if "layers" in report:
        lines = [f"  {'':<28}{'change':>10}{'cosine':>12}"]
        return lines + [
            _difference(row["layer"], row) for row in [{"layer": "whole"} | report["whole"], *report["layers"]]
        ]
    if "chosen" in report:
        reported = (
            "" if report["reported"] is None else f", {report['reported']:g} on {report['reported_on'] or 'report'}"
        )
        lines = [f"  chosen  {report['chosen']}: {report['metric']} {report['score']:g}{reported}"]
        lines += [f"  tied    {name}" for name in report["tied"] if name != report["chosen"]]
        return lines + [f"  {f['severity']}: {f['message']}" for f in report["findings"]]
    if "trials" in report:
        lines = [
            f"  soup    {len(report['kept'])} kept, loss {report['loss']:.4f} (best alone {report['best_single']:.4f})"
        ]
        return lines + [
            f"    {'+' if t['kept'] else '-'} {t['members'][-1]}  {t['loss']:.4f}" for t in report["trials"]
        ]
    return [f"  read back, {report['tensors']} tensors equal to the source"] if report.get("verified") else []


def _difference(name: str, row: Any) -> str:
    change, cosine = (row[key] for key in ("relative_change", "cosine"))
    shown = "-" if change is None else f"{change:.3e}"
    return f"  {name:<28}{shown:>10}{'-' if cosine is None else f'{cosine:.7f}':>12}"


_SIZES = (
    ("read_bytes", "reads"),
    ("write_bytes", "writes"),
    ("memory_bytes", "memory at most"),
    ("device_bytes", "of the GPU at most"),
)


def carry_out(
    spec: dict[str, Any], *, dry_run: bool, wait: bool, local: bool, data_dir: Path | None, json: bool
) -> None:
    """Check an operation, or ask for it, or (local) do it here; show what came of it. Exit code 1 unless it succeeded."""
    if local:
        if "evaluate" in spec:
            message = "--evaluate needs the platform, and --local goes without it."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Leave one of the two out.")
        order = {key: value for key, value in spec.items() if key != "name"} | {
            "out": str(Path(spec["name"]).absolute())
        }
        found = _run_here(order, "check" if dry_run else "run")
        show(found, json, lambda: describe_plan(found) if dry_run else describe_result(found))
        return
    gateway = Gateway.find(data_dir)
    if dry_run:
        plan = gateway.post("/operations/preflight", json=spec)
        show(plan, json, lambda: describe_plan(plan))
        return
    operation = gateway.post("/operations", json=spec)
    if wait:
        operation = wait_until_over(gateway, operation)
    show(operation, json, lambda: describe(operation))
    if wait and operation["state"] != OperationState.SUCCEEDED:
        raise typer.Exit(1)


def _run_here(order: dict[str, Any], verb: str) -> Any:
    """The same process that the surgery service starts, started by us."""
    command = [sys.executable, "-m", "ltp.tensors.operate", verb]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    result: Any = None
    try:
        # Left open: its end tells the process that nobody waits any more.
        process.stdin.write(json_format.dumps(order) + "\n")
        process.stdin.flush()
        draw = _drawer()
        for line in process.stdout:
            message = json_format.loads(line)
            result = message.get("result", result)
            draw(message.get("progress"))
        code, said = process.wait(), process.stderr.read().strip()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        hint = "The same command goes on where it stopped."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, "Stopped.", hint) from None
    if code == 0 and result is not None:
        return result
    try:
        raise Problem.model_validate_json(said.splitlines()[-1]).error()
    except (IndexError, ValueError):
        last = said.splitlines()[-1] if said else "it said nothing"
        raise LtpError(ErrorCode.INTERNAL, f"The operation ended with code {code}: {last}", "") from None


def _drawer() -> Callable[[Any], None]:
    """A line of progress that is drawn over itself; nothing where no terminal shows it."""

    def draw(progress: Any) -> None:
        if progress and err.is_terminal:
            err.print(f"{_progress_line(progress):<60}", end="\r")

    return draw


def _progress_line(progress: Any) -> str:
    if not progress.get("total_bytes"):
        return str(progress.get("stage", ""))
    eta = progress.get("eta_seconds")
    left = "" if eta is None else f", {eta:.0f} s left"
    share = progress["done_bytes"] / progress["total_bytes"]
    return f"{progress['stage']} {share:.0%}, {size(progress['done_bytes'])} of {size(progress['total_bytes'])}{left}"


def _ask(
    operation: str,
    verb: str,
    data_dir: Path | None,
    json: bool,
    body: dict[str, Any] | None = None,
    *,
    settled: bool = False,
) -> None:
    """Ask for something; with `settled`, return when the operation neither runs nor waits, or after a while."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.post(f"/operations/{resolve(gateway, operation)}/{verb}", json=body or {})
        deadline = time.monotonic() + _SETTLE_SECONDS
        while settled and found["state"] in _UNSETTLED and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            found = gateway.get(f"/operations/{found['operation_id']}")
        show(found, json, lambda: f"{verb} of {found['operation_id']} requested; it is {found['state']}.")


def absolute(reference: str) -> str:
    """The reference to send: a model that lies in this directory by its absolute path; other names are the platform's."""
    parts = reference.split("+", 1)
    return "+".join(
        str(Path(part).expanduser().resolve()) if Path(part).expanduser().exists() else part for part in parts
    )
