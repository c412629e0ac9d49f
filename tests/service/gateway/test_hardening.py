"""The door's own guards: sign-in by an issuer's tokens, TLS, headers, origins, and bodies that are larger than they look."""

from __future__ import annotations

import datetime as dt
import gzip
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.conftest import free_port
from tests.service.gateway.conftest import Door

KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def issuer(door: Door) -> Iterator[str]:
    """The issuer that the gateway trusts."""
    address = door.environment["LTP_GATEWAY_OIDC_ISSUER"]
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key())) | {
        "kid": "k1",
        "use": "sig",
        "alg": "RS256",
    }
    pages = {"/.well-known/openid-configuration": {"jwks_uri": f"{address}/keys"}, "/keys": {"keys": [public]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(pages[self.path]).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", int(address.rpartition(":")[2])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address
    server.shutdown()


def signed(issuer: str, key: Any = KEY, algorithm: str = "RS256", kid: str = "k1", **changes: Any) -> str:
    claims = {
        "iss": issuer,
        "aud": "ltp",
        "sub": "u1",
        "exp": time.time() + 60,
        "preferred_username": "ann",
        "ltp_role": "user",
    }
    claims |= {"ltp_project": "signed-in", **changes}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers={"kid": kid})


def test_an_issuers_token_opens_its_project_and_no_other(door: Door, issuer: str) -> None:
    client = door.by(signed(issuer))
    assert client.get("/whoami").json() | {"scopes": []} == {
        "name": "ann",
        "role": "user",
        "project": "signed-in",
        "scopes": [],
    }
    assert client.get("/tokens").status_code == 403
    assert door.by(signed(issuer, ltp_role="admin", ltp_project=None)).get("/tokens").status_code == 200


def test_a_token_that_is_not_the_issuers_opens_nothing(door: Door, issuer: str) -> None:
    shared = "a shared secret that somebody published"
    unsigned = jwt.encode(
        {"iss": issuer, "aud": "ltp", "sub": "u", "exp": time.time() + 60, "ltp_role": "admin"}, None, "none"
    )
    for wrong in (
        signed(issuer, key=OTHER), signed(issuer, exp=time.time() - 3600), signed(issuer, aud="other"), signed(issuer, iss="http://x"),
        signed(issuer, kid="k2"), signed(issuer, key=shared, algorithm="HS256"), unsigned, "a.b.c", signed(issuer)[:-4] + "AAAA",
        signed(issuer, sub=None), signed(issuer, exp=None), signed(issuer, nbf=time.time() + 3600), ".." , "..." , signed(issuer) + ".x",
    ):  # fmt: skip
        assert door.by(wrong).get("/whoami").status_code == 401, wrong
    for nobody in (
        {"ltp_role": None},
        {"ltp_role": "root"},
        {"ltp_role": ["admin"]},
        {"ltp_project": None},
        {"ltp_project": "../x"},
    ):
        assert door.by(signed(issuer, **nobody)).get("/whoami").status_code in {401, 403}, nobody


def test_answers_carry_the_headers_and_no_origin_is_let_in(door: Door) -> None:
    answer = door.root.get("/jobs", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert (answer.headers["x-content-type-options"], answer.headers["x-frame-options"]) == ("nosniff", "DENY")
    assert (
        answer.headers["cache-control"] == "no-store"
        and "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    )
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = httpx.options(f"{door.url}/api/v1/jobs", headers=asked, timeout=60)
    assert "access-control-allow-origin" not in preflight.headers
    assert "server" not in answer.headers


def test_a_body_is_never_unpacked_and_never_too_large(door: Door) -> None:
    bomb = gzip.compress(b'{"name": "' + b"a" * (64 << 20) + b'"}')
    began = time.monotonic()
    packed = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert door.root.post("/tokens", content=bomb, headers=packed).status_code == 400
    assert time.monotonic() - began < 10
    assert door.root.post("/tokens", content=b"x" * (17 << 20)).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * (1 << 20)

    try:
        assert door.root.post("/tokens", content=pieces()).status_code == 413
    except httpx.TransportError:
        pass  # It was hung up on in the middle, which is as good.
    assert door.root.get("/whoami").status_code == 200


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")]), dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return pem, secret


APP = """
import sys
from pathlib import Path
from fastapi import FastAPI
from ltp.service.serve import serve
app = FastAPI()
app.get("/")(lambda: {"here": True})
serve(app, port=int(sys.argv[1]), certificate=Path(sys.argv[2]), key=Path(sys.argv[3]))
"""


def test_it_serves_over_tls_and_over_nothing_older(tmp_path: Path) -> None:
    (pem, secret), port = certificate(tmp_path), free_port()
    process = subprocess.Popen([sys.executable, "-c", APP, str(port), str(pem), str(secret)])
    try:
        context, deadline = ssl.create_default_context(cafile=str(pem)), time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"https://127.0.0.1:{port}/", verify=context).json() == {"here": True}
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/")
        old = ssl.create_default_context(cafile=str(pem))
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.TransportError):
            httpx.get(f"https://127.0.0.1:{port}/", verify=old)
    finally:
        process.terminate()
        process.wait(20)
