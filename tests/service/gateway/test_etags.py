"""What is read carries a tag; what has not changed is not sent again; what has changed is not changed over."""

from __future__ import annotations

from tests.service.gateway.conftest import Door


def test_a_change_needs_what_was_seen(door: Door) -> None:
    client = door.root
    made = client.post(
        "/webhooks", json={"url": "https://example.com/", "name": "tagged", "subjects": ["ltp.x.v1.y"]}
    ).json()
    path = f"/webhooks/{made['webhook_id']}"
    client.patch(path, json={"enabled": False})
    seen = client.get(path)
    tag = seen.headers["etag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.get(path, headers={"If-None-Match": f'W/"x", {tag}'}).content == b""
    assert client.patch(path, json={"name": "once"}, headers={"If-Match": tag}).status_code == 200
    stale = client.patch(path, json={"name": "twice"}, headers={"If-Match": tag})
    assert stale.status_code == 412 and stale.json()["code"] == "precondition_failed"
    assert client.get(path).json()["name"] == "once"
    assert client.post(f"{path}/replay", json={"after": 0}, headers={"If-Match": tag}).status_code == 412
    assert client.delete(path, headers={"If-Match": '"nothing"'}).status_code == 412
    assert client.delete(path, headers={"If-Match": client.get(path).headers["etag"]}).status_code == 204
    assert client.delete(path, headers={"If-Match": "*"}).status_code == 412


def test_a_precondition_tells_nothing_of_others(door: Door) -> None:
    mine, theirs = door.token("manager", "etag-a"), door.token("manager", "etag-b")
    made = door.by(mine).post("/webhooks", json={"url": "https://example.com/"}).json()
    path = f"/webhooks/{made['webhook_id']}"
    tag = door.by(mine).get(path).headers["etag"]
    assert door.by(theirs).get(path, headers={"If-None-Match": tag}).status_code == 404
    assert door.by(theirs).delete(path, headers={"If-Match": tag}).status_code in {404, 412}
    assert door.by(mine).get(path).status_code == 200


def test_settings_show_no_password(door: Door) -> None:
    answer = door.root.get("/settings")
    assert answer.status_code == 200
    found = {s["name"]: s for s in answer.json()["settings"]}
    assert found["database_url"]["value"] == "set, not shown" and "postgresql" not in answer.text
    assert found["gateway_webhook_attempts"]["value"] == 3 and not found["gateway_webhook_attempts"]["is_default"]
    assert door.by(door.token("user", "etag-a")).patch("/settings", json={}).status_code == 403
