"""`ltp plan`: what a recipe would run as, on the hosts of a platform or on hardware that is only described."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ltp.cli.output import DataDirOption, JsonOption, reported, show
from ltp.cli.plan_view import describe_explanation, describe_report, size
from ltp.cli.recipes import RecipeFile, read_recipe
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.hardware import TABLE

if TYPE_CHECKING:
    from ltp.contracts.plan_report import PlanReport
    from ltp.contracts.recipe import Recipe

_DEFAULT = "recipe"


class _PlanGroup(TyperGroup):
    """`ltp plan RECIPE` is `ltp plan recipe RECIPE`: what is no command is the recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_PlanGroup, no_args_is_help=True, help="Show what a recipe would run as, and why: `ltp plan RECIPE`."
)

Objective = Annotated[
    str | None,
    typer.Option(help="What the best plan is best at: throughput, cost, fewest-gpus or headroom."),
]
Devices = Annotated[str | None, typer.Option(help="How many devices, `1-8`, or `auto` for as many as help.")]
HardwareNames = Annotated[
    list[str] | None,
    typer.Option("--hardware", help="Plan for this instead of a platform's hosts: `h100:8`, `cpu:64`. Repeatable."),
]
Budget = Annotated[float | None, typer.Option(help="Dollars the job may cost.")]
Deadline = Annotated[float | None, typer.Option(help="Hours the training may take.")]
Rows = Annotated[int | None, typer.Option(min=0, help="Rows of the dataset, where no platform knows them.")]
Flash = Annotated[bool, typer.Option("--flash-attention", help="The described hosts have flash-attn: pack sequences.")]


@app.command(_DEFAULT)
def plan(
    recipe: RecipeFile,
    hardware: HardwareNames = None,
    objective: Objective = None,
    devices: Devices = None,
    budget: Budget = None,
    deadline: Deadline = None,
    rows: Rows = None,
    flash_attention: Flash = False,
    overrides: Annotated[bool, typer.Option("--overrides", help="Print verl's overrides of the best plan.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show the best plans for a recipe: devices, memory by stage, time, cost, and why the others lost."""
    with reported():
        asked = _wished(read_recipe(recipe), objective, devices, budget, deadline)
        found = _report(asked, hardware or [], rows, flash_attention, data_dir)
        if found["problem"] is not None:
            from ltp.contracts.values import Problem

            raise Problem.model_validate(found["problem"]).error()
        if overrides and not json:
            typer.echo("\n".join(found["overrides"]))
            return
        # The best plan's fields stand at the top, as the API's /plans gives them.
        show({**found["plans"][0], **{key: found[key] for key in _REPORT_KEYS}}, json, lambda: describe_report(found))


_REPORT_KEYS = ("plans", "pareto", "candidates", "fitting", "rejected", "overrides")


@app.command()
def explain(
    recipe: RecipeFile,
    hardware: HardwareNames = None,
    objective: Objective = None,
    devices: Devices = None,
    budget: Budget = None,
    deadline: Deadline = None,
    rows: Rows = None,
    flash_attention: Flash = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Run the model's own code too, without weights (needs torch).")
    ] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show every reason: the terms that bind, each rule and size that stood against a plan, and what would help."""
    with reported():
        asked = _wished(read_recipe(recipe), objective, devices, budget, deadline)
        found = _report(asked, hardware or [], rows, flash_attention, data_dir)
        if found["plans"] and hardware:
            from ltp.cli.plan_opinion import opinions

            found["second_opinion"] = opinions(asked, found["plans"][0], trace=trace)
        show(found, json, lambda: describe_explanation(found))
        if found["problem"] is not None:
            raise typer.Exit(1)


@app.command("hardware")
def list_hardware(json: JsonOption = False) -> None:
    """List the accelerators that plans can be made for, with the source of their figures."""
    with reported():
        show([vars(row) for row in TABLE], json, _hardware_table)


@app.command("check")
def check_measured(
    file: Annotated[Path, typer.Argument(help="Measured steps, one JSON object a line.")], json: JsonOption = False
) -> None:
    """Hold predictions against measured steps: each row's error, and their median, 95 % and maximum."""
    from ltp.cli.plan_check import check

    check(file, json)


@app.command("trace")
def trace_config(
    config: Annotated[Path, typer.Argument(help="A model's config.json.")],
    micro_batch: Annotated[int, typer.Option(min=1)] = 1,
    sequence: Annotated[int, typer.Option(min=1)] = 2048,
    checkpointing: Annotated[bool, typer.Option("--checkpointing")] = False,
    lora_rank: Annotated[int, typer.Option(min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Run the model's real code without weights, and compare its memory with the prediction. Needs torch."""
    from ltp.cli.plan_check import trace

    trace(config, micro_batch, sequence, checkpointing, lora_rank, json)


def _hardware_table() -> str:
    lines = [f"{'NAME':<16}{'MEMORY':>10}{'TFLOP/s':>9}{'GB/s':>7}{'LINK':>6}{'$/H':>6}  SOURCE"]
    lines += [
        f"{row.name:<16}{size(row.memory_bytes):>10}{row.flops / 1e12:>9.0f}{row.bandwidth / 1e9:>7.0f}"
        f"{row.link / 1e9:>6.0f}{row.hourly_dollars:>6.2f}  {row.source}"
        for row in TABLE
    ]
    return "\n".join(lines)


def _wished(
    recipe: Recipe, objective: str | None, devices: str | None, budget: float | None, deadline: float | None
) -> Recipe:
    """The recipe with what the command line asks for instead. Raises INVALID_REQUEST or INVALID_RECIPE."""
    from ltp.recipe_text import check_recipe

    changes: dict[str, Any] = {}
    if objective is not None:
        changes["objective"] = objective
    if devices is not None:
        changes["devices"], changes["max_devices"] = _counts(devices)
    if budget is not None:
        changes["budget_dollars"] = budget
    if deadline is not None:
        changes["deadline_seconds"] = deadline * 3600
    if not changes:
        return recipe
    settings = recipe.settings()
    return check_recipe({**settings, "resources": {**settings["resources"], **changes}}, "the command line")


_MOST_DEVICES = 1024


def _counts(text: str) -> tuple[int, int]:
    if text == "auto":
        return 1, _MOST_DEVICES
    low, _, high = text.partition("-")
    if low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low) <= _MOST_DEVICES:
        return int(low), int(high or low)
    message = f"--devices is {text!r}, not a number, a range such as 1-8, or auto."
    raise LtpError(ErrorCode.INVALID_REQUEST, message, f"Give a number from 1 to {_MOST_DEVICES}.")


def _report(
    recipe: Recipe, hardware: list[str], rows: int | None, flash_attention: bool, data_dir: Path | None
) -> dict[str, Any]:
    if not hardware:
        from ltp.cli.client import Gateway

        return Gateway.find(data_dir).post("/plans/report", json=recipe.settings())
    return _offline(recipe, hardware, rows, flash_attention).model_dump(mode="json")


def _offline(recipe: Recipe, hardware: list[str], rows: int | None, flash_attention: bool) -> PlanReport:
    """The same search here, on hosts that are only described."""
    from ltp.model_files import read_config
    from ltp.planning.choice import report
    from ltp.planning.pools import described_host
    from ltp.verl_recipe.planned import with_overrides

    hosts = [described_host(text, flash_attention=flash_attention) for text in hardware]
    found = report(recipe, read_config(Path(recipe.model.path)), hosts, rows=rows)
    return with_overrides(found, recipe, rows)
