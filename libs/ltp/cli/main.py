"""The `ltp` command: nouns and verbs over the API, and the platform's own care."""

from __future__ import annotations

import gc
import importlib
import os
from typing import Any

import typer
from typer.core import TyperGroup

# pydantic would look through every installed package for plugins, which we have none of.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Importing makes many objects and no garbage: looking for it takes a tenth of what `ltp plan` has.
gc.set_threshold(100_000)

# Name -> module and attribute: a typer application (a noun) or a function (a verb). Imported when it is called, because all
# of them together take more than a second and `ltp plan` has three tenths of one.
COMMANDS = {
    "up": "ltp.cli.up:up",
    "down": "ltp.cli.up:down",
    "status": "ltp.cli.up:status",
    "doctor": "ltp.cli.up:doctor",
    "checkpoints": "ltp.cli.results:checkpoints",
    "checkpoint": "ltp.cli.checkpoints:app",
    "compare": "ltp.cli.comparisons:compare",
    "demo": "ltp.cli.demo:demo",
    "eval": "ltp.cli.evaluations:app",
    "dataset": "ltp.cli.dataset_commands:app",
    "plan": "ltp.cli.plans:app",
    "job": "ltp.cli.job_control:app",
    "host": "ltp.cli.host_access:app",
    "setup": "ltp.cli.setup:app",
    "verify": "ltp.cli.setup:verify",
    "pipeline": "ltp.cli.pipelines:app",
    "schedule": "ltp.cli.schedules:app",
    "merge": "ltp.cli.operations:merge",
    "average": "ltp.cli.checkpoint_operations:average",
    "select": "ltp.cli.checkpoint_operations:select",
    "export": "ltp.cli.checkpoint_operations:export",
    "operation": "ltp.cli.operations:app",
    "queue": "ltp.cli.work:queue_app",
    "work": "ltp.cli.work:work_app",
    "events": "ltp.cli.events:app",
    "token": "ltp.cli.tokens:app",
    "secret": "ltp.cli.secrets:app",
    "webhook": "ltp.cli.webhooks:app",
    "bus": "ltp.cli.bus:app",
    "grafana": "ltp.cli.grafana:app",
    "init": "ltp.cli.backup:init",
    "backup": "ltp.cli.backup:backup",
    "restore": "ltp.cli.backup:restore",
    "proto": "ltp.cli.proto:app",
}


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            command = typer.main.get_command(found)
        else:
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name)(found)
            command = typer.main.get_command(alone)
        command.name = cmd_name
        return command


app = typer.Typer(
    name="ltp", cls=_LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)


@app.callback()
def ltp() -> None:
    """Plan, run, watch and evaluate LLM training with verl."""


if __name__ == "__main__":
    app()
