"""`ltp grafana`: dashboards and alert rules as code, written to deploy/ or brought into a running Grafana."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp.cli.generated import REPOSITORY, CheckOption, RootOption, bring_up_to_date
from ltp.cli.output import JsonOption, reported, rows_table, show
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="Dashboards and alert rules as code.")


@app.command()
def write(
    root: RootOption = REPOSITORY,
    check: CheckOption = False,
    json: JsonOption = False,
) -> None:
    """Write deploy/grafana and deploy/prometheus anew."""
    with reported():
        bring_up_to_date(root, _needed()[0].generated(), check=check, as_json=json)


@app.command()
def sync(
    url: Annotated[str, typer.Option(help="Where Grafana is.", envvar="LTP_GRAFANA_URL")],
    token_file: Annotated[
        Path | None, typer.Option(help="File with a service account's token; else LTP_GRAFANA_TOKEN.")
    ] = None,
    prometheus: Annotated[str, typer.Option(help="Prometheus, as Grafana reaches it.")] = "http://prometheus:9090",
    postgres: Annotated[str, typer.Option(help="HOST:PORT of Postgres, as Grafana reaches it.")] = "postgres:5432",
    postgres_user: Annotated[str, typer.Option(help="A role that may only read.")] = "grafana",
    password_file: Annotated[Path | None, typer.Option(help="File with that role's password.")] = None,
    tempo: Annotated[str | None, typer.Option(help="Tempo, as Grafana reaches it; none without.")] = None,
    contact_url: Annotated[str | None, typer.Option(help="Webhook that alerts are sent to.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what differs, and change nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Bring folder, data sources, dashboards, alert rules and contact point into a Grafana. Twice changes nothing."""
    with reported():
        files, grafana, client = _needed()
        token = _secret(token_file) or os.environ.get("LTP_GRAFANA_TOKEN")
        api = client.GrafanaApi.from_url(url, credential=token or None, timeout=20.0)
        sources = files.sources(prometheus, postgres, tempo, postgres_user)
        try:
            wanted = grafana.everything(api, sources, _secret(password_file), contact_url)
            done = grafana.sync(wanted, dry_run=dry_run)
        except (client.client.GrafanaException, OSError) as error:
            raise _refused(url, error) from error
        changed = [each for each in done if each["change"] != "same"]
        rows = [(each["change"], each["kind"], each["name"]) for each in changed]
        told = f"{len(done)} things agree, nothing to do"
        show(
            {"changes": done, "dry_run": dry_run},
            json,
            lambda: rows_table(("CHANGE", "KIND", "NAME"), rows) if rows else told,
        )


def _needed() -> tuple[Any, Any, Any]:
    """The parts that need the extra `grafana`, which nothing else does."""
    try:
        import grafana_client
        import grafana_client.client

        from ltp.observability import files, grafana
    except ImportError as error:
        message = f"{error.name} is not installed."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "Install `ltp[grafana]`.") from error
    return files, grafana, grafana_client


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as error:
        hint = "Name a file that holds it and nothing else."
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{path} cannot be read: {error.strerror}.", hint) from error


def _refused(url: str, error: Exception) -> LtpError:
    status = getattr(error, "status_code", None)
    if status in {401, 403}:
        hint = "Give a service account's token with the role Admin in --token-file or LTP_GRAFANA_TOKEN."
        return LtpError(ErrorCode.FORBIDDEN, f"Grafana at {url} refuses the token ({status}).", hint)
    message = f"Grafana at {url} did not do it: {type(error).__name__} {str(error)[:300]}"
    return LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "See that it runs and answers at this URL.")
