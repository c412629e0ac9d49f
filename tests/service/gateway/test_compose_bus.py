"""The NATS of docker-compose.yml: with its config, its accounts by `ltp init`, and subscribers issued and revoked by API."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml
from nats.errors import Error as NatsError

from ltp.backup.compose import BUS_USERS, make_secrets
from ltp.backup.volumes import fill
from ltp.contracts import SERVICES
from ltp.core.errors import LtpError
from ltp.up.servers import nats_binary
from tests.conftest import free_port, new_database, until
from tests.service.gateway.conftest import Door, open_door

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Stack:
    """What docker-compose.yml makes of the drawn secrets, with NATS and the gateway started by it."""

    environments: dict[str, dict[str, str]]
    port: int
    bus: Path
    data: Path
    door: Door

    def url(self, variable_of: str) -> str:
        return self.environments[variable_of]["LTP_NATS_URL"].replace("@nats:4222", f"@127.0.0.1:{self.port}")


def environments(folder: Path) -> dict[str, dict[str, str]]:
    """Each service's environment, as Compose fills it in from .env."""
    known = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if "=" in line)
    text = (ROOT / "docker-compose.yml").read_text()
    filled = re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", lambda m: known.get(m[1]) or (m[3] if m[2] == "-" else ""), text)
    services = yaml.safe_load(filled)["services"]
    return {name: {k: str(v) for k, v in service.get("environment", {}).items()} for name, service in services.items()}


@pytest.fixture(scope="module")
def stack(postgres: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("compose")
    make_secrets(folder, dry_run=False)
    said, compose = environments(folder), yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    etc, data, port, monitor = folder / "etc", folder / "data", free_port(), free_port()
    (etc / "bus").mkdir(parents=True)
    data.mkdir()
    config = (ROOT / "deploy/nats/nats.conf").read_text()
    assert config.count('"/data"') == 1
    (etc / "nats.conf").write_text(config.replace('"/data"', json.dumps(str(folder / "store"))))
    fill(data, etc / "bus", said["prepare"])
    # Its own words, but for where things lie and where it listens.
    words = [
        str(etc / Path(word).name) if word.startswith("/") else word for word in compose["services"]["nats"]["command"]
    ]
    argv = [str(nats_binary()), *words, "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor)]
    with (folder / "nats.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    settings = {
        "LTP_GATEWAY_BUS_FOLDER": str(etc / "bus"),
        "LTP_GATEWAY_BUS_SYSTEM_URL": said["gateway"]["LTP_GATEWAY_BUS_SYSTEM_URL"].replace(
            "@nats:4222", f"@127.0.0.1:{port}"
        ),
    }
    database, where = asyncio.run(new_database(postgres, "template_ltp")), tmp_path_factory.mktemp("compose-door")
    gateway = said["gateway"]["LTP_NATS_URL"].replace("@nats:4222", f"@127.0.0.1:{port}")
    door = open_door(gateway, database, where, **settings)
    yield Stack(said, port, etc / "bus", data, door)
    for ended in (door.process, process):
        ended.terminate()
        ended.wait(20)


async def refusals(url: str, subject: str) -> list[str]:
    """What NATS says to one who publishes on a subject."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(url, error_cb=note, allow_reconnect=False)
    await client.publish(subject, b"{}")
    # Refusals come in order and by themselves: when the one that must come is there, so would be the other.
    await client.publish("$sys.forbidden-to-all", b"{}")
    await until(lambda: any("forbidden-to-all" in one for one in refused))
    await client.close()
    return [one for one in refused if "forbidden-to-all" not in one]


async def test_each_service_is_let_in_as_itself_and_nobody_else_is(stack: Stack) -> None:
    assert {name for name in SERVICES if stack.environments[name].get("LTP_NATS_URL")} == set(SERVICES)
    for service in SERVICES:
        client = await nats.connect(stack.url(service), allow_reconnect=False)
        await client.close()
    for wrong in (f"nats://127.0.0.1:{stack.port}", f"nats://planner:x@127.0.0.1:{stack.port}",
                  stack.url("planner").replace("planner:", "scheduler:")):  # fmt: skip
        with pytest.raises(NatsError):
            await nats.connect(wrong, allow_reconnect=False, max_reconnect_attempts=0)
    assert await refusals(stack.url("planner"), "ltp.plan.v1.made") == []
    assert "permissions violation" in str(await refusals(stack.url("planner"), "ltp.job.v1.succeeded")).lower()


async def test_a_subscriber_is_issued_hears_its_own_and_is_revoked(stack: Stack) -> None:
    mine = stack.door.by(stack.door.token("manager", "p1"))
    theirs = stack.door.by(stack.door.token("manager", "p2"))
    made = mine.post("/bus-accounts", json={"name": "billing", "subjects": ["ltp.audit.v1.*"]}).json()
    heard: list[Any] = []
    refused: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(
        f"nats://127.0.0.1:{stack.port}", user=made["user"], password=made["password"],
        inbox_prefix=made["inbox_prefix"].encode(), error_cb=note, max_reconnect_attempts=1, reconnect_time_wait=0.1,
    )  # fmt: skip
    await client.subscribe(made["live_subjects"][0], cb=hear)
    await client.flush()
    assert theirs.put("/secrets/theirs", json={"value": "v"}).is_success
    assert mine.put("/secrets/mine", json={"value": "v"}).is_success
    await until(lambda: any("secrets/mine" in json.loads(m.data)["path"] for m in heard), 20)
    assert {m.headers["ce-project"] for m in heard} == {"p1"}
    await client.publish("ltp.job.v1.submitted", b"{}")
    await until(lambda: refused)
    assert mine.delete("/bus-accounts/billing").json()["revoked_at"]
    await until(lambda: not client.is_connected)
    await client.close()
    # A service is not hung up on when NATS reads its users anew.
    assert stack.door.root.get("/events").status_code == 200


def test_another_start_changes_no_password_and_forgets_no_subscriber(stack: Stack) -> None:
    made = stack.door.root.post("/bus-accounts", json={"name": "stays", "subjects": ["ltp.>"]}).json()
    before, keyring = (stack.bus / "users.conf").read_text(), (stack.data / "secrets" / "keyring").read_text()
    assert made["user"] in before
    environment = {**os.environ, **stack.environments["prepare"]}
    code = f"from pathlib import Path as P; from ltp.backup import volumes as v; import os; v.fill(P({str(stack.data)!r}), P({str(stack.bus)!r}), os.environ)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert (stack.bus / "users.conf").read_text() == before
    assert (stack.data / "secrets" / "keyring").read_text() == keyring
    written = "".join(path.read_text() for path in stack.bus.iterdir())
    for user in BUS_USERS:
        assert stack.environments["prepare"][f"LTP_NATS_{user.upper()}_PASSWORD"] not in written
    assert {path.stat().st_mode & 0o777 for path in stack.bus.iterdir()} == {0o600}


def test_what_was_not_drawn_is_not_started_with(tmp_path: Path) -> None:
    with pytest.raises(LtpError, match="LTP_NATS_PLANNER_PASSWORD"):
        fill(tmp_path, tmp_path / "bus", {})
