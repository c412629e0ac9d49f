"""A Grafana brought to agree with the code: what it has is compared with what it should have, and only the difference is sent."""

# grafana-client has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaClientError

from ltp.observability.alerts import ALERTS, RUNBOOKS, Alert
from ltp.observability.boards import BOARDS
from ltp.observability.files import FOLDER
from ltp.observability.panels import PROMETHEUS, built

_FOLDER_UID = "ltp"
_GROUP = "ltp"
Change = Literal["create", "update", "same"]


@dataclass(frozen=True)
class Wanted:
    """One thing that Grafana is to have. `read` gives what it has, or None; `write` creates it or puts it right."""

    kind: str
    name: str
    value: Mapping[str, Any]
    read: Callable[[], Mapping[str, Any] | None]
    create: Callable[[], Any]
    update: Callable[[], Any]

    def change(self) -> Change:
        """What has to be done. What Grafana adds of its own (ids, versions, defaults) is no difference."""
        found = self.read()
        return "create" if found is None else "same" if _agrees(self.value, found) else "update"


def sync(wanted: list[Wanted], *, dry_run: bool) -> list[dict[str, str]]:
    """Compare all, then change what differs; what was, or would be, done."""
    plan = [(each, each.change()) for each in wanted]
    if not dry_run:
        for each, change in plan:
            if change != "same":
                (each.create if change == "create" else each.update)()
    return [{"kind": each.kind, "name": each.name, "change": change} for each, change in plan]


def everything(
    api: GrafanaApi, sources: list[dict[str, Any]], password: str | None, webhook: str | None
) -> list[Wanted]:
    """All that the platform wants of a Grafana, in the order in which it must be made."""
    found = [_folder(api)]
    found += [_source(api, source, password) for source in sources]
    found += [_dashboard(api, built(board)) for board in BOARDS]
    found += [_rule(api, alert) for alert in ALERTS]
    if webhook is not None:
        found.append(_contact(api, webhook))
    return found


def _folder(api: GrafanaApi) -> Wanted:
    value = {"uid": _FOLDER_UID, "title": FOLDER}
    return Wanted(
        "folder", FOLDER, value,
        lambda: _found(lambda: api.folder.get_folder(_FOLDER_UID)),
        lambda: api.folder.create_folder(FOLDER, _FOLDER_UID),
        lambda: api.folder.update_folder(_FOLDER_UID, title=FOLDER, overwrite=True),
    )  # fmt: skip


def _source(api: GrafanaApi, value: dict[str, Any], password: str | None) -> Wanted:
    # Grafana never shows a password; it is sent with every change.
    sent = value | ({"secureJsonData": {"password": password}} if password and "user" in value else {})
    return Wanted(
        "data source", value["name"], value,
        lambda: _found(lambda: api.datasource.get_datasource_by_uid(value["uid"])),
        lambda: api.datasource.create_datasource(sent),
        lambda: api.datasource.update_datasource_by_uid(value["uid"], sent),
    )  # fmt: skip


def _dashboard(api: GrafanaApi, value: dict[str, Any]) -> Wanted:
    def read() -> Mapping[str, Any] | None:
        found = _found(lambda: api.dashboard.get_dashboard(value["uid"]))
        return None if found is None else found["dashboard"]

    def write() -> Any:
        body = {"dashboard": value, "folderUid": _FOLDER_UID, "overwrite": True, "message": "ltp grafana sync"}
        return api.dashboard.update_dashboard(body)

    return Wanted("dashboard", value["title"], value, read, write, write)


def _rule(api: GrafanaApi, alert: Alert) -> Wanted:
    value = rule_of(alert)
    return Wanted(
        "alert rule", alert.name, value,
        lambda: _found(lambda: api.alertingprovisioning.get_alertrule(value["uid"])),
        lambda: api.alertingprovisioning.create_alertrule(value, disable_provenance=True),
        lambda: api.alertingprovisioning.update_alertrule(value["uid"], value, disable_provenance=True),
    )  # fmt: skip


# grafana-client 3 sends it with what is made, but not with a changed contact point.
_OURS = {"X-Disable-Provenance": "true"}


def _contact(api: GrafanaApi, url: str) -> Wanted:
    value = {"uid": "ltp-webhook", "name": "ltp", "type": "webhook", "settings": {"url": url}}

    def read() -> Mapping[str, Any] | None:
        points = api.alertingprovisioning.get_contactpoints()
        return next((point for point in points if point["uid"] == value["uid"]), None)

    return Wanted(
        "contact point", "ltp", value, read,
        lambda: api.alertingprovisioning.create_contactpoint(value, disable_provenance=True),
        lambda: api.client.PUT(f"/v1/provisioning/contact-points/{value['uid']}", json=value, headers=_OURS),
    )  # fmt: skip


def rule_of(alert: Alert) -> dict[str, Any]:
    """An alert as a rule of Grafana's own: each series that the expression returns is one that fires."""
    asked = {"refId": "A", "expr": f"({alert.expression}) * 0 + 1", "instant": True}
    test = {
        "refId": "C",
        "type": "threshold",
        "expression": "A",
        "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
    }
    window = {"from": 600, "to": 0}
    return {
        "uid": alert.name.lower(),
        "title": alert.name,
        "folderUID": _FOLDER_UID,
        "ruleGroup": _GROUP,
        "orgID": 1,
        "condition": "C",
        "for": alert.lasting,
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": {"severity": alert.severity, "platform": "ltp"},
        "annotations": {"summary": alert.told, "runbook_url": f"{RUNBOOKS}/{alert.runbook}.md"},
        "data": [
            {"refId": "A", "datasourceUid": PROMETHEUS, "relativeTimeRange": window, "model": asked},
            {"refId": "C", "datasourceUid": "__expr__", "relativeTimeRange": window, "model": test},
        ],
    }


def _agrees(wanted: Any, found: Any) -> bool:
    """Whether all that is wanted is found; more may be."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_agrees(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(_agrees(a, b) for a, b in zip(wanted, found, strict=True))
        )
    return bool(wanted == found) or _same_time(wanted, found)


def _same_time(wanted: Any, found: Any) -> bool:
    """Grafana writes `1m` as `1m0s` in some versions, and `0m` as `0s`."""
    if not isinstance(wanted, str) or not isinstance(found, str):
        return False
    return (wanted in {"0m", "0s"} and found in {"0m", "0s"}) or found in {f"{wanted}0s", wanted}


def _found(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except GrafanaClientError as error:
        if error.status_code == 404:
            return None
        raise
