"""Secrets go in and never come out: not by the API, not into what the platform writes. Keys rotate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy.ext.asyncio import create_async_engine

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.keyring import Keyring, make_keyring
from ltp.security.secrets import Secrets
from tests.service.gateway.conftest import Door
from tests.service.gateway.test_identity import sql

CANARY = "canary-5d0c2b1e-never-to-be-seen"


def read(door: Door, name: str) -> str:
    async def run() -> str:
        engine = create_async_engine(door.database_url)
        try:
            return await Secrets.of(engine, door.data).read(name)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def ltp(door: Door, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**door.environment, "LTP_URL": door.url, "LTP_TOKEN": door.admin}
    argv = [sys.executable, "-m", "ltp.cli.main", *words]
    return subprocess.run(argv, input=text, capture_output=True, text=True, env=environment, timeout=60)


def test_a_secret_goes_in_by_the_cli_and_is_found_nowhere(door: Door) -> None:
    done = ltp(door, "secret", "set", "hub", text=CANARY + "\n")
    assert done.returncode == 0, done.stderr
    assert read(door, "hub") == CANARY
    for words in (("secret", "list", "--json"), ("events", "list", "--json"), ("secret", "set", "hub", "--dry-run")):
        done = ltp(door, *words, text=CANARY)
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
    # Also where the request fails, the value stays out of the answer.
    for body in ({"value": [CANARY]}, {"value": CANARY, "more": CANARY}, {"valeu": CANARY}, {"value": CANARY + "\0"}):
        answer = door.root.put("/secrets/bad", json=body)
        assert answer.status_code == 400 and CANARY not in answer.text
    assert door.root.get("/secrets/hub").status_code == 405
    tables = [row["t"] for row in sql(door, "SELECT schemaname || '.' || tablename AS t FROM pg_tables WHERE "
                                            "schemaname NOT IN ('pg_catalog', 'information_schema')")]  # fmt: skip
    assert len(tables) > 20
    for table in tables:
        for form in (CANARY, CANARY.encode().hex()):
            query = f"SELECT 1 FROM {table} r WHERE r::text LIKE $1"  # noqa: S608 - names of our own tables
            assert not sql(door, query, f"%{form}%"), table
    written = [p for p in (*door.data.rglob("*"), door.log) if p.is_file()]
    assert written and not [p for p in written if CANARY.encode() in p.read_bytes()]
    argv = (
        Path(f"/proc/{door.process.pid}/cmdline").read_bytes() + Path(f"/proc/{door.process.pid}/environ").read_bytes()
    )
    assert CANARY.encode() not in argv


def test_a_private_key_keeps_its_lines(door: Door, tmp_path: Path) -> None:
    key = "-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----\n"
    (tmp_path / "key").write_text(key)
    assert ltp(door, "secret", "set", "ssh", "--file", str(tmp_path / "key")).returncode == 0
    assert read(door, "ssh").splitlines() == key.splitlines()


def test_a_rotation_makes_the_old_key_useless_and_loses_nothing(door: Door) -> None:
    ring = door.data / "secrets" / "keyring"
    old = ring.read_text()
    for number in range(20):
        door.root.put(f"/secrets/s{number}", json={"value": f"value-{number}"})
    done = ltp(door, "secret", "rotate")
    assert done.returncode == 0, done.stderr
    assert ring.read_text() != old and len(ring.read_text().split()) == 1
    assert ring.stat().st_mode & 0o777 == 0o600
    assert [read(door, f"s{n}") for n in range(20)] == [f"value-{n}" for n in range(20)]
    ciphertexts = [row["ciphertext"] for row in sql(door, "SELECT ciphertext FROM security.secrets")]
    for ciphertext in ciphertexts:
        with pytest.raises(LtpError):
            Keyring(ring, tuple(old.split())).decrypt(ciphertext)


def test_a_project_has_secrets_of_its_own(door: Door) -> None:
    red, blue = (door.by(door.token("manager", project)) for project in ("red", "blue"))
    assert red.put("/secrets/redkey", json={"value": "r"}).status_code == 200
    assert blue.put("/secrets/redkey", json={"value": "b"}).status_code in {404, 409}
    assert read(door, "redkey") == "r"
    assert blue.get("/secrets").json()["secrets"] == []
    assert blue.delete("/secrets/redkey").status_code == 404
    model = {"kind": "api", "name": "m", "base_url": "http://127.0.0.1:1", "secret": "redkey"}
    body = {"model": model, "datasets": [{"name": "x"}], "scorer": {"name": "exact"}}
    assert blue.post("/evaluations", json=body).status_code == 404
    assert red.delete("/secrets/redkey").status_code == 204
    assert red.delete("/secrets/redkey").status_code == 404


def test_users_neither_read_nor_write_secrets(door: Door) -> None:
    user = door.by(door.token("user", "red"))
    assert user.get("/secrets").status_code == user.put("/secrets/x", json={"value": "1"}).status_code == 403
    assert door.by(door.token("manager", "red")).post("/secrets/rotate").status_code == 403


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda ring: ring.unlink(), "cannot be read"),
        (lambda ring: ring.write_text(""), "empty"),
        (lambda ring: ring.chmod(0o644), "0644"),
        (lambda ring: ring.write_text("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="), "default key"),
        (lambda ring: ring.write_text("A" * 43 + "="), "default key"),
        (lambda ring: ring.write_text("changeme-please"), "no Fernet key"),
        (lambda ring: ring.write_bytes(b"\xff\xfe"), "cannot be read"),
    ],
)
def test_a_keyring_that_is_none_is_refused(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    ring = tmp_path / "keyring"
    make_keyring(ring)
    Keyring.load(ring)
    spoil(ring)
    with pytest.raises(LtpError) as refused:
        Keyring.load(ring)
    assert refused.value.code is ErrorCode.KEYRING_UNUSABLE and words in refused.value.message


def test_a_killed_rotation_leaves_all_readable(tmp_path: Path) -> None:
    """The file first has both keys: whichever half of the rotation was done, both ciphertexts open."""
    ring = tmp_path / "keyring"
    make_keyring(ring)
    before = Keyring.load(ring)
    old = before.encrypt("v")
    between = before.with_new_key()
    assert Keyring.load(ring).decrypt(old) == Keyring.load(ring).decrypt(between.renew(old)) == "v"
    assert len(ring.read_text().split()) == 2
    assert ring.stat().st_mode & 0o777 == 0o600
    assert Fernet(Keyring.load(ring).keys[0])
