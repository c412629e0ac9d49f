"""A gateway as its own process beside real NATS and Postgres, and callers of every role."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ltp.security.identity import new_token
from ltp.security.keyring import make_keyring
from tests.conftest import free_port, new_database


@dataclass
class Door:
    """A running gateway."""

    url: str
    admin: str
    data: Path
    database_url: str
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    log: Path
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def by(self, token: str) -> httpx.Client:
        """A client with a token."""
        if token not in self._clients:
            headers = {"Authorization": f"Bearer {token}"}
            self._clients[token] = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60)
        return self._clients[token]

    @property
    def root(self) -> httpx.Client:
        """The first administrator."""
        return self.by(self.admin)

    def token(self, role: str, project: str | None = None, **more: Any) -> str:
        """A new token."""
        body = {"name": f"{role}-{project or 'all'}", "role": role, "project": project, **more}
        answer = self.root.post("/tokens", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def start(self) -> None:
        """Start, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)


def open_door(nats_url: str, database_url: str, folder: Path, **settings: str) -> Door:
    """Start a gateway on a database of its own."""
    data, port = folder / "data", free_port()
    secrets = data / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    token = new_token()[0]
    (secrets / "token").write_text(token)
    make_keyring(secrets / "keyring")
    environment = {
        **os.environ,
        "LTP_NATS_URL": nats_url,
        "LTP_DATABASE_URL": database_url,
        "LTP_DATA_DIR": str(data),
        "LTP_GATEWAY_PORT": str(port),
        "LTP_GATEWAY_TOKEN_FILE": str(secrets / "token"),
        **settings,
    }
    door = Door(f"http://127.0.0.1:{port}", token, data, database_url, None, environment, folder / "log")  # type: ignore[arg-type]
    door.start()
    return door


@pytest.fixture(scope="session")
def door(nats_url: str, postgres: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One gateway for all tests that need none of their own."""
    url = asyncio.run(new_database(postgres, "template_ltp"))
    quick = {
        "LTP_GATEWAY_WEBHOOK_NETWORKS": '["127.0.0.1/32"]',
        "LTP_GATEWAY_WEBHOOK_RETRY_SECONDS": "0.05",
        "LTP_GATEWAY_WEBHOOK_ATTEMPTS": "3",
        "LTP_GATEWAY_WEBHOOK_DISABLE_AFTER_SECONDS": "1.5",
        # Nobody is there until a test comes to be the issuer.
        "LTP_GATEWAY_OIDC_ISSUER": f"http://127.0.0.1:{free_port()}",
    }
    here = open_door(nats_url, url, tmp_path_factory.mktemp("door"), **quick)
    yield here
    here.process.terminate()
    here.process.wait(20)
