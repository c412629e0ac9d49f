"""Where files come from: archives that mean harm, folders with a dataset_info.json, hubs that answer or do not."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.hub import HubSettings
from services.dataset.ingest import freeze
from services.dataset.obtain import Obtained, obtain

LINES = b"".join(json.dumps({"prompt": f"{n}?", "response": str(n)}).encode() + b"\n" for n in range(5))
LIMIT = 200 * 1024**2


def got(folder: Path, source: Path | str, **more: Any) -> Obtained:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    settings = {"hf_endpoint": "", "hf_token": None, "modelscope_endpoint": "", "modelscope_token": None,
                "offline": False, "max_bytes": LIMIT} | more.pop("hub", {})  # fmt: skip
    known: dict[str, Any] = {"member": None, "mapping": None, "roots": [folder]} | more
    return obtain(str(source), None, hub=HubSettings(**settings), work=work, **known)


def rows(folder: Path, found: Obtained) -> int:
    return freeze(found.files, name="x", holdout=0, versions_dir=folder / "v", owner="o", columns=found.columns).rows


def tar(path: Path, *members: tarfile.TarInfo, content: bytes = LINES) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            archive.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def test_archives_of_every_kind(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/a.jsonl", LINES)
        archive.writestr("data/README.md", "hello")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    tar(tmp_path / "c.tar", tarfile.TarInfo("d/c.jsonl"))
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress((tmp_path / "c.tar").read_bytes()))
    for name in ("a.zip", "b.jsonl.gz", "c.tar", "d.tar.gz"):
        (work := tmp_path / f"of-{name}").mkdir()
        assert rows(work, got(work, tmp_path / name, roots=[tmp_path])) == 5, name


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def linked_zip(path: Path) -> Path:
    info = zipfile.ZipInfo("a.jsonl")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.jsonl", "w") as out:
        for _ in range(100):
            out.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda p: tar(p, tarfile.TarInfo("../../out.jsonl")), ErrorCode.DATASET_UNREADABLE, "leads out of it"),
        (lambda p: tar(p, tarfile.TarInfo("/etc/out.jsonl")), ErrorCode.DATASET_UNREADABLE, "leads out of it"),
        (lambda p: tar(p, tarfile.TarInfo("a.jsonl"), link("b.jsonl")), ErrorCode.DATASET_UNREADABLE, "is a link"),
        (linked_zip, ErrorCode.DATASET_UNREADABLE, "is a link"),
        (bomb, ErrorCode.TOO_LARGE, "looks like a bomb"),
        (lambda p: p.write_bytes(gzip.compress(LINES)[:-12]) and p, ErrorCode.DATASET_UNREADABLE, "broken archive"),
        (lambda p: p.write_bytes(b"PK\x03\x04 no zip at all") and p, ErrorCode.DATASET_UNREADABLE, "broken archive"),
        (lambda p: tar(p, tarfile.TarInfo("a.jsonl"), tarfile.TarInfo("a.csv")), ErrorCode.INVALID_REQUEST, "several kinds"),
    ],
)  # fmt: skip
def test_hostile_archives(tmp_path: Path, make: Any, code: ErrorCode, said: str) -> None:
    with pytest.raises(LtpError) as caught:
        got(tmp_path, make(tmp_path / "archive"))
    assert (caught.value.code, said in caught.value.message) == (code, True), caught.value.message
    assert not (tmp_path.parent / "out.jsonl").exists()


def test_a_folder_with_llama_factorys_list(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps([{"q": "a?", "a": "b"}]))
    (folder / "two.jsonl").write_bytes(LINES)
    entries = {
        "one": {"file_name": "one.json", "columns": {"prompt": "q", "response": "a"}},
        "two": {"file_name": "two.jsonl", "columns": {"prompt": "prompt", "response": "response"}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    assert rows(tmp_path, got(tmp_path, folder, member="one")) == 1
    assert rows(tmp_path, got(tmp_path, folder, member="two")) == 5
    with pytest.raises(LtpError, match=r"2 entries: one, two"):
        got(tmp_path, folder)


def test_a_path_outside_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.jsonl").write_bytes(LINES)
    (tmp_path / "in" / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    for path in ("/etc/passwd", tmp_path / "in" / ".." / "secret.jsonl", tmp_path / "in" / "link.jsonl"):
        with pytest.raises(LtpError, match="outside the folders"):
            got(tmp_path / "in", path)
    with pytest.raises(LtpError) as caught:
        got(tmp_path, tmp_path / "absent.jsonl")
    assert caught.value.code is ErrorCode.NOT_FOUND


# -- hubs ------------------------------------------------------------------------------------------------------------


class FakeHub(BaseHTTPRequestHandler):
    """As much of the two hubs' HTTP interfaces as their own clients ask for."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        sha = "a" * 40
        if path.startswith("/api/datasets/owner/sums"):
            siblings = [{"rfilename": "train.jsonl", "size": len(LINES)}, {"rfilename": "README.md", "size": 2}]
            self._json(
                {
                    "id": "owner/sums",
                    "sha": sha,
                    "siblings": siblings,
                    "private": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                }
            )
        elif path == f"/datasets/owner/sums/resolve/{sha}/train.jsonl":
            self._send(200, LINES, {"ETag": '"e1"', "X-Repo-Commit": sha})
        elif path == "/api/v1/datasets/owner/sums/repo":
            self._send(200, LINES, {})
        elif path == "/api/v1/datasets/owner/sums/repo/tree":
            files = [
                {
                    "Path": "train.jsonl",
                    "Name": "train.jsonl",
                    "Type": "blob",
                    "Size": len(LINES),
                    "Revision": "master",
                    "Sha256": "",
                }
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": files, "TotalCount": 1}})
        else:
            self._send(404, b'{"error": "not found"}', {"X-Error-Code": "RepoNotFound"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_modelscope_through_its_own_client(tmp_path: Path, hub: str) -> None:
    pytest.importorskip("modelscope_hub")
    assert rows(tmp_path, got(tmp_path, "modelscope://owner/sums", hub={"modelscope_endpoint": hub})) == 5


def test_hugging_face_through_a_mirror(tmp_path: Path, hub: str) -> None:
    found = got(tmp_path, "hf://owner/sums", hub={"hf_endpoint": hub})
    assert rows(tmp_path, found) == 5
    assert [file.name for file in found.files] == ["train.jsonl"]
    with pytest.raises(LtpError) as caught:
        got(tmp_path, "hf://owner/absent", hub={"hf_endpoint": hub})
    assert caught.value.code is ErrorCode.NOT_FOUND and "owner/absent" in caught.value.message
    with pytest.raises(LtpError, match=r"no file that fits valid\.jsonl"):
        got(tmp_path, "hf://owner/sums/valid.jsonl", hub={"hf_endpoint": hub})


@pytest.mark.parametrize("scheme", ["hf", "modelscope"])
def test_a_hub_that_cannot_be_reached(tmp_path: Path, scheme: str) -> None:
    nobody = "http://127.0.0.1:9"
    with pytest.raises(LtpError) as caught:
        got(tmp_path, f"{scheme}://owner/sums", hub={"hf_endpoint": nobody, "modelscope_endpoint": nobody})
    assert caught.value.code is ErrorCode.SOURCE_UNREACHABLE and nobody in caught.value.message
    with pytest.raises(LtpError, match="works offline"):
        got(tmp_path, f"{scheme}://owner/sums", hub={"offline": True})
    with pytest.raises(LtpError, match="no reference"):
        got(tmp_path, f"{scheme}://owner")
    with pytest.raises(LtpError, match="no reference"):
        got(tmp_path, f"{scheme}://../../etc/passwd")
    with pytest.raises(LtpError) as caught:
        got(tmp_path, "hf://-owner-/--name--", hub={"hf_endpoint": nobody})
    assert caught.value.code is ErrorCode.INVALID_REQUEST
