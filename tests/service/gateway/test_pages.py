"""The console's page without a console: told how to build it, there as soon as it is built, and never in the API's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.gateway import errors, pages


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return tmp_path / "dist"


@pytest.fixture
def client(built: Path) -> TestClient:
    app = FastAPI()
    errors.install(app)

    @app.post("/api/v1/things")
    def make() -> str:
        return "made"

    pages.install(app, built)
    return TestClient(app)


def build(folder: Path) -> None:
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text('<script nonce="LTP_CSP_NONCE" src="/assets/main-1a2b.js"></script>')
    (folder / "assets" / "main-1a2b.js").write_text("alert()" * 1000)
    (folder / "assets" / "icon.svg").write_text("<svg/>")
    (folder / "secret.txt").write_text("not an asset")


def test_without_a_build_the_page_says_how_to_build_it(client: TestClient, built: Path) -> None:
    page = client.get("/jobs/7")
    assert "make console" in page.text
    assert client.get("/assets/main-1a2b.js").status_code == 404
    # Built while the gateway runs, it is there without a restart.
    build(built)
    page = client.get("/jobs/7")
    nonce = page.text.split('nonce="')[1].split('"')[0]
    assert f"'nonce-{nonce}'" in page.headers["content-security-policy"]
    file = client.get("/assets/main-1a2b.js")
    assert (file.status_code, file.headers["content-encoding"]) == (200, "gzip")
    assert "immutable" in file.headers["cache-control"]
    # A name without a hash may change.
    assert "cache-control" not in client.get("/assets/icon.svg").headers


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api", "/assets/none.js", "/assets/%2e%2e/secret.txt"])
def test_apis_and_files_answer_in_their_own_way(client: TestClient, built: Path, path: str) -> None:
    build(built)
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_verb_is_still_the_apis(client: TestClient) -> None:
    assert client.get("/api/v1/things").status_code == 405
    assert client.post("/api/v1/things").json() == "made"
