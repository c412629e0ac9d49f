"""A Grafana as `ltp grafana sync` sees it: the same paths, bodies, status codes and refusals, kept in memory.

After Grafana 12's HTTP API (https://grafana.com/docs/grafana/latest/developers/http_api/). It adds what Grafana adds (ids,
versions, provenance), never hands out a password, and refuses what Grafana refuses: a second thing of one uid, a
dashboard or rule in a folder that is not there, a wrong token.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "glsa_made-up"


class FakeGrafana:
    """Serves on a free port until closed."""

    def __init__(self) -> None:
        self.folders: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.passwords: dict[str, str] = {}
        self.boards: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}
        self.points: dict[str, Any] = {}
        # What changed anything: method and path.
        self.changes: list[tuple[str, str]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, value = 401, {"message": "Invalid API key"}
                if self.headers.get("authorization") == f"Bearer {TOKEN}":
                    path = self.path.partition("?")[0].removeprefix("/api")
                    status, value = fake.answer(self.command, path, body)
                    if self.command != "GET" and status < 300:
                        fake.changes.append((self.command, path))
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if found := re.fullmatch(r"/folders(?:/([^/]+))?", path):
            return self._folder(method, found[1], body)
        if found := re.fullmatch(r"/datasources(?:/uid/([^/]+))?", path):
            return self._source(method, found[1], body)
        if found := re.fullmatch(r"/dashboards/(?:uid/([^/]+)|db)", path):
            return self._board(method, found[1], body)
        if found := re.fullmatch(r"/v1/provisioning/alert-rules(?:/([^/]+))?", path):
            return self._rule(method, found[1], body)
        if found := re.fullmatch(r"/v1/provisioning/contact-points(?:/([^/]+))?", path):
            return self._point(method, found[1], body)
        return 404, {"message": "Not found"}

    def _folder(self, method: str, uid: str | None, body: Any) -> tuple[int, Any]:
        if method == "POST":
            if body["uid"] in self.folders:
                return 412, {"message": "a folder with the same uid already exists"}
            self.folders[body["uid"]] = {"id": len(self.folders) + 1, "version": 1, **body}
            return 200, self.folders[body["uid"]]
        if uid not in self.folders:
            return 404, {"message": "folder not found"}
        if method == "PUT":
            self.folders[uid] |= {k: v for k, v in body.items() if k == "title"}
        return 200, self.folders[uid]

    def _source(self, method: str, uid: str | None, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return (200, self.sources[uid]) if uid in self.sources else (404, {"message": "Data source not found"})
        uid = uid or body["uid"]
        if method == "POST" and uid in self.sources:
            return 409, {"message": "data source with the same name already exists"}
        secure = body.pop("secureJsonData", {})
        if "password" in secure:
            self.passwords[uid] = secure["password"]
        self.sources[uid] = {
            "id": 1,
            "orgId": 1,
            "readOnly": False,
            **body,
            "secureJsonFields": dict.fromkeys(secure, True),
        }
        return 200, {"datasource": self.sources[uid], "message": "Datasource added"}

    def _board(self, method: str, uid: str | None, body: Any) -> tuple[int, Any]:
        if method == "GET":
            found = self.boards.get(uid or "")
            return (
                (200, {"dashboard": found, "meta": {"folderUid": "ltp"}})
                if found
                else (404, {"message": "Dashboard not found"})
            )
        board = body["dashboard"]
        if body.get("folderUid") not in self.folders:
            return 400, {"message": "folder not found"}
        known = self.boards.get(board["uid"])
        if known and not body.get("overwrite"):
            return 412, {"status": "version-mismatch"}
        self.boards[board["uid"]] = {**board, "id": 7, "version": known["version"] + 1 if known else 1}
        return 200, {"status": "success", "uid": board["uid"]}

    def _rule(self, method: str, uid: str | None, body: Any) -> tuple[int, Any]:
        if method == "POST":
            if body["folderUID"] not in self.folders:
                return 400, {"message": "folder does not exist"}
            if body["uid"] in self.rules:
                return 409, {"message": "rule with this UID exists"}
            uid = body["uid"]
        if method != "GET":
            known = {**body, "id": 1, "provenance": "", "updated": "2026-11-23T00:00:00Z"}
            # As Grafana writes durations.
            known["for"] = {"0m": "0s"}.get(known["for"], known["for"])
            for query in known["data"]:
                query["model"] = {"intervalMs": 1000, "maxDataPoints": 43200, **query["model"]}
            self.rules[uid or ""] = known
            return 201, known
        return (200, self.rules[uid]) if uid in self.rules else (404, {"message": ""})

    def _point(self, method: str, uid: str | None, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, list(self.points.values())
        self.points[uid or body["uid"]] = {**body, "provenance": ""}
        return 202, self.points[uid or body["uid"]]
