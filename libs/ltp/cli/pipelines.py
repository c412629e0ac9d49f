"""`ltp pipeline`: stages from data to a gate, submitted, followed, resumed, and where their results come from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show
from ltp.cli.yaml_files import yaml_text
from ltp.contracts.pipeline import PipelineSpec
from ltp.contracts.pipeline_graph import literal_paths, places_of
from ltp.contracts.stages import STAGE_KINDS
from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import parse_pipeline

app = typer.Typer(no_args_is_help=True, help="Run pipelines: dataset, train, evaluate, gate.")

PipelineFile = Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline in YAML; `-` reads standard input.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or `last`.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when the run is over; exit 1 unless it succeeded.")]

_POLL_SECONDS = 0.5


@app.command()
def submit(
    file: PipelineFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the stages and which would be reused.")] = False,
    key: Annotated[str | None, typer.Option("--key", help="Idempotency key: the same key submits once.")] = None,
    wait: Wait = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Run a pipeline; one with `triggers` is armed instead, and runs at each event it waits for."""
    with reported():
        spec, gateway = read_pipeline(file), Gateway.find(data_dir)
        body = spec.model_dump(mode="json")
        if dry_run:
            foreseen = gateway.post("/pipeline-runs/preview", json=body)
            show(foreseen, json, lambda: _foreseen_table(foreseen))
        elif spec.triggers:
            pipeline = gateway.post("/pipelines", json=body)["pipelines"][0]
            show(pipeline, json, lambda: f"{pipeline['name']} is armed: each event it waits for starts a run.")
        else:
            headers = {} if key is None else {"Idempotency-Key": key}
            run = gateway.post("/pipeline-runs", json=body, headers=headers)
            _show_run(gateway, run, wait, json)


@app.command("list")
def list_all(
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    with reported():
        found = Gateway.find(data_dir).get("/pipeline-runs", state=state, limit=100)["runs"]
        rows = [(r["run_id"], r["name"], r["state"], r["origin"]["kind"], moment(r["created_at"])) for r in found]
        show(found, json, lambda: rows_table(("RUN", "NAME", "STATE", "BY", "SUBMITTED"), rows))


@app.command()
def get(
    run: RunId,
    wait: Wait = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show a run with its stages."""
    with reported():
        gateway = Gateway.find(data_dir)
        _show_run(gateway, gateway.get(f"/pipeline-runs/{_resolve(gateway, run)}"), wait, json)


@app.command()
def cancel(run: RunId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Ask that a run end; its jobs are cancelled."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/pipeline-runs/{_resolve(gateway, run)}")
        if dry_run:
            active = [s["key"] for s in found["stages"] if s["state"] == "running"]
            show(
                found,
                json,
                lambda: f"Would end {found['run_id']} ({found['state']}); running: {', '.join(active) or '-'}.",
            )
            return
        asked = gateway.post(f"/pipeline-runs/{found['run_id']}/cancel")
        show(asked, json, lambda: f"Cancellation of {asked['run_id']} requested.")


@app.command()
def resume(
    run: RunId,
    dry_run: DryRunOption = False,
    wait: Wait = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Go on with a failed or cancelled run: what succeeded stays, the rest is done."""
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/pipeline-runs/{_resolve(gateway, run)}")
        if dry_run:
            kept = {"succeeded", "reused"}
            left = [s["key"] for s in found["stages"] if s["state"] not in kept]
            show(found, json, lambda: f"{found['name']} is {found['state']}; would do: {', '.join(left) or 'nothing'}.")
            return
        _show_run(gateway, gateway.post(f"/pipeline-runs/{found['run_id']}/resume"), wait, json)


@app.command()
def lineage(
    of: Annotated[str, typer.Argument(metavar="RUN|DIGEST", help="A run's id, `last`, or an artefact's digest.")],
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what was made from what, as recorded when it was made."""
    with reported():
        gateway = Gateway.find(data_dir)
        path = f"/artefacts/{of}/lineage" if len(of) == 64 else f"/pipeline-runs/{_resolve(gateway, of)}/lineage"
        found = gateway.get(path)["artefacts"]
        show(found, json, lambda: "\n".join(_describe_artefact(made) for made in found) or "Nothing was made yet.")


@app.command()
def armed(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the pipelines that wait for events."""
    with reported():
        found = Gateway.find(data_dir).get("/pipelines")["pipelines"]
        rows = [(p["name"], ", ".join(t["event"] for t in p["triggers"]), moment(p["armed_at"])) for p in found]
        show(found, json, lambda: rows_table(("NAME", "WAITS FOR", "SINCE"), rows))


@app.command()
def disarm(name: str, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Let a pipeline's triggers start no more runs."""
    with reported():
        gateway = Gateway.find(data_dir)
        if dry_run:
            found = [p for p in gateway.get("/pipelines")["pipelines"] if p["name"] == name]
            show(found, json, lambda: f"Would disarm {name}." if found else f"No pipeline {name!r} is armed.")
            return
        gone = gateway.delete(f"/pipelines/{name}")["pipelines"][0]
        show(gone, json, lambda: f"{name} is disarmed.")


def read_pipeline(path: Path) -> PipelineSpec:
    """Read and check a pipeline here, so that errors name line and column; files are taken from this directory."""
    spec = parse_pipeline(*yaml_text(path))
    here = {p: str(Path(p).expanduser().resolve()) for p in literal_paths(spec) if Path(p).expanduser().exists()}
    return _with_paths(spec, here) if here else spec


def _with_paths(spec: PipelineSpec, absolute: dict[str, str]) -> PipelineSpec:
    """The pipeline with the paths it names spelt out; the settings are of this process alone, so they are changed in place."""
    body = spec.model_dump(mode="json")
    for stage in body["stages"].values():
        for path in STAGE_KINDS[stage["kind"]].paths:
            for section, key in places_of(stage["settings"], path.split(".")):
                section[key] = absolute.get(section[key], section[key])
    return PipelineSpec.model_validate(body)


def _resolve(gateway: Gateway, run: str) -> str:
    if run != "last":
        return run
    found = gateway.get("/pipeline-runs", limit=1)["runs"]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, "No pipeline was run yet.", "Submit one with `ltp pipeline submit FILE`.")
    return str(found[0]["run_id"])


def _show_run(gateway: Gateway, run: Any, wait: bool, json: bool) -> None:
    while wait and run["state"] == "running":
        time.sleep(_POLL_SECONDS)
        run = gateway.get(f"/pipeline-runs/{run['run_id']}")
    show(run, json, lambda: _describe(run))
    if wait and run["state"] != "succeeded":
        raise typer.Exit(1)


def _describe(run: Any) -> str:
    lines = [f"{run['name']}  {run['state']}  {run['run_id']}  round {run['round']}"]
    width = max((len(s["key"]) for s in run["stages"]), default=0)
    for stage in run["stages"]:
        noun = "" if stage["noun_id"] is None else f"  {stage['noun_id']}"
        digest = "" if stage["digest"] is None else f"  {stage['digest'][:12]}"
        lines.append(f"  {stage['key']:<{width}}  {stage['kind']:<9} {stage['state']:<9}{digest}{noun}")
        if stage["problem"]:
            lines.append(f"      {stage['problem']['code']}: {stage['problem']['message']}")
    if run["problem"]:
        lines += [f"  {run['problem']['message']}", f"  {run['problem']['hint']}"]
    return "\n".join(lines)


def _foreseen_table(foreseen: Any) -> Any:
    rows = [(s["key"], s["kind"], s["fate"], ", ".join(s["needs"])) for s in foreseen["stages"]]
    return rows_table(("STAGE", "KIND", "WOULD", "NEEDS"), rows)


def _describe_artefact(made: Any) -> str:
    lines = [
        f"{made['digest'][:16]}  {made['kind']} by stage {made['stage']} of {made['run_id']}  {moment(made['made_at'])}"
    ]
    lines += [f"    from {name}  {digest[:16]}" for name, digest in made["inputs"].items()]
    return "\n".join(lines)
