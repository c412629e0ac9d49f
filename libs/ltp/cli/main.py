"""The `ltp` command: nouns and verbs over the API, and the platform's own care."""

from __future__ import annotations

import typer

from ltp.cli import datasets, evaluations, events, hosts, job_control, jobs, results, up, work
from ltp.cli.demo import demo
from ltp.cli.proto import app as proto_app

app = typer.Typer(
    name="ltp",
    help="Plan, run, watch and evaluate LLM training with verl.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (up.up, up.down, up.status, up.doctor, jobs.plan, results.checkpoints, evaluations.compare, demo):
    app.command()(command)
job_control.add_to(jobs.app)
for name, group in (
    ("dataset", datasets.app),
    ("job", jobs.app),
    ("host", hosts.app),
    ("eval", evaluations.app),
    ("events", events.app),
    ("proto", proto_app),
):
    app.add_typer(group, name=name)
for name, group in (("queue", work.queue_app), ("work", work.work_app)):
    app.add_typer(group, name=name)
