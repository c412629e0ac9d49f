"""Dashboards as code: the files are current, and a sync makes what is missing, mends what was changed, and then does nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ltp.observability.boards import BOARDS
from ltp.observability.files import generated
from ltp.observability.panels import built
from tests.service.telemetry.fake_grafana import TOKEN, FakeGrafana

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def grafana() -> Iterator[FakeGrafana]:
    fake = FakeGrafana()
    yield fake
    fake.close()


def sync(grafana: FakeGrafana, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LTP_GRAFANA_URL": grafana.url, "LTP_GRAFANA_TOKEN": token}
    command = [sys.executable, "-m", "ltp.cli.main", "grafana", "sync", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def changes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = {}
    for each in json.loads(done.stdout)["changes"]:
        counts[each["change"]] = counts.get(each["change"], 0) + 1
    return counts


def test_the_files_under_deploy_are_what_the_code_says() -> None:
    stale = [path for path, text in generated().items() if (ROOT / path).read_text() != text]
    assert not stale, "run `ltp grafana write`"


def test_a_sync_shows_its_difference_first_makes_it_and_then_changes_nothing(
    grafana: FakeGrafana, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("of-the-reader\n")
    more = ("--password-file", str(tmp_path / "password"), "--contact-url", "http://127.0.0.1:1/hook", "--json")
    planned = changes(sync(grafana, *more, "--dry-run"))
    assert set(planned) == {"create"}
    assert grafana.changes == []
    assert changes(sync(grafana, *more)) == planned
    assert set(grafana.boards) == {board.uid for board in BOARDS}
    assert grafana.passwords == {"ltp-postgres": "of-the-reader"}
    assert len(grafana.rules) >= 7
    made = len(grafana.changes)
    assert set(changes(sync(grafana, *more))) == {"same"}
    assert len(grafana.changes) == made


def test_what_somebody_changed_by_hand_is_mended_and_nothing_else(grafana: FakeGrafana) -> None:
    sync(grafana)
    grafana.boards["ltp-queues"]["title"] = "My queues"
    grafana.rules["ltpoutboxstuck"]["labels"]["severity"] = "info"
    grafana.boards["own"] = {"uid": "own", "title": "Of an operator", "version": 1}
    grafana.changes.clear()
    done = sync(grafana, "--json")
    assert changes(done)["update"] == 2
    assert [path for _, path in grafana.changes] == ["/dashboards/db", "/v1/provisioning/alert-rules/ltpoutboxstuck"]
    assert grafana.boards["own"]["title"] == "Of an operator"


def test_a_wrong_token_and_a_grafana_that_is_not_there_are_said(grafana: FakeGrafana) -> None:
    refused = sync(grafana, token="wrong")
    assert refused.returncode == 1
    assert "refuses the token" in refused.stderr
    grafana.close()
    gone = sync(grafana)
    assert gone.returncode == 1
    assert "service_unavailable" in gone.stderr


async def test_every_query_of_a_dashboard_runs_on_our_tables(database_url: str) -> None:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        for board in BOARDS:
            annotation: Any = built(board)["annotations"]["list"][0]["target"]["rawSql"]
            for query in [*board.queries(), annotation]:
                # As Grafana fills in its macros and variables.
                filled = re.sub(r"\$__timeFilter\((\S+)\)", r"\1 BETWEEN now() - interval '6 hours' AND now()", query)
                await connection.fetch(filled.replace("$job", "01a20884-46b9-7c9f-a986-394991b27e5f"))
    finally:
        await connection.close()
