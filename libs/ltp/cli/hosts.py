"""`ltp host`: the machines jobs run on, who holds their devices, and what operators say of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, moment, reported, rows_table, show, size
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="See hosts, label them, and take them out of service.")

HostId = Annotated[str, typer.Argument(metavar="HOST", help="A host's name, as `ltp host list` shows it.")]


@app.command("list")
def list_all(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List hosts with their devices."""
    with reported():
        found = Gateway.find(data_dir).get("/hosts")["hosts"]
        rows = [
            (h["host_id"], _reach(h), h["state"], _devices(h), _labels(h), len(h["holdings"]), moment(h["seen_at"]))
            for h in found
        ]
        show(found, json, lambda: rows_table(("HOST", "BY", "STATE", "DEVICES", "LABELS", "LEASES", "SEEN"), rows))


@app.command()
def get(host: HostId, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show one host and who holds its devices."""
    with reported():
        found = Gateway.find(data_dir).get(f"/hosts/{host}")
        show(found, json, lambda: describe(found))


@app.command()
def label(
    host: HostId,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="`KEY=` takes a label away.")],
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Give a host labels; recipes ask for them by resources.labels."""
    with reported():
        gateway = Gateway.find(data_dir)
        now: dict[str, str] = gateway.get(f"/hosts/{host}")["labels"]
        now = parse_labels(labels, now)
        if not dry_run:
            gateway.put(f"/hosts/{host}/labels", json=now)
        show({"host_id": host, "labels": now}, json, lambda: f"{host}  {_labels({'labels': now}) or 'no labels'}")


@app.command()
def cordon(
    host: HostId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Place nothing new on a host; what runs there goes on."""
    _ask(host, "cordon", dry_run, data_dir, json, "will take nothing new")


@app.command()
def uncordon(
    host: HostId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Give a host back to the scheduler."""
    _ask(host, "uncordon", dry_run, data_dir, json, "will take work again")


@app.command("give-up")
def give_up(
    host: HostId, dry_run: DryRunOption = False, data_dir: DataDirOption = None, json: JsonOption = False
) -> None:
    """Give a dead host's work to others at once; its jobs go on from their checkpoints."""
    _ask(host, "give-up", dry_run, data_dir, json, "will lose its work to other hosts")


def parse_labels(words: list[str], now: dict[str, str]) -> dict[str, str]:
    """Labels after `KEY=VALUE` words; an empty value takes one away. Raises INVALID_REQUEST."""
    for text in words:
        key, equals, value = text.partition("=")
        if not equals:
            raise LtpError(ErrorCode.INVALID_REQUEST, f"{text}: a label is KEY=VALUE.", "disk=nvme")
        now = {**{k: v for k, v in now.items() if k != key}, **({key: value} if value else {})}
    return now


def describe(host: Any) -> str:
    """A host in a few lines."""
    seen = moment(host["seen_at"]) or "never"
    lines = [f"{host['host_id']}  {host['state']}  seen {seen}", f"  labels  {_labels(host) or '-'}"]
    lines += _access(host.get("access"))
    lines += [f"  {d['kind']} {d['index']}  {d['model']}  {size(d['memory_bytes'])}" for d in host["devices"]]
    for held in host["holdings"]:
        who = f"job {held['job_id']}" if held["job_id"] else f"work {held['work_id']}"
        leaving = ", leaving" if held["leaving"] else ""
        lines.append(f"  {held['device_kind']} {held['device_indexes']} held by {who}, lease {held['fence']}{leaving}")
    return "\n".join(lines)


def _access(access: Any) -> list[str]:
    """How a registered host is reached, and what is wrong with it."""
    if not access:
        return []
    told = access["access"]
    where = told["address"] if told["backend"] == "ray" else f"{told['user']}@{told['address']}:{told['port']}"
    lines = [
        f"  {told['backend']}  {where}  {told['work_dir']}  {access['secret']}",
        f"  key  {access['fingerprint'] or '-'}",
    ]
    if access["problem"]:
        lines.append(
            f"  problem  {access['problem']['code']}: {access['problem']['message']} {access['problem']['hint']}"
        )
    return lines


def _ask(host: str, verb: str, dry_run: bool, data_dir: Any, json: bool, effect: str) -> None:
    with reported():
        gateway = Gateway.find(data_dir)
        found = gateway.get(f"/hosts/{host}") if dry_run else gateway.post(f"/hosts/{host}/{verb}")
        show(found, json, lambda: f"{host} {effect}{' (nothing was done)' if dry_run else ''}")


def _reach(host: Any) -> str:
    access = host.get("access")
    if not access:
        return "local"
    return access["access"]["backend"] + (f" ({access['problem']['code']})" if access["problem"] else "")


def _devices(host: Any) -> str:
    kinds: dict[str, int] = {}
    for device in host["devices"]:
        name = device["model"] if device["kind"] == "gpu" else "cpu"
        kinds[name] = kinds.get(name, 0) + 1
    return ", ".join(f"{count} × {name}" for name, count in kinds.items())


def _labels(host: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(host["labels"].items()))
