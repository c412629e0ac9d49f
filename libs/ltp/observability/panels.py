"""Panels of Grafana from one line each: what is asked, in which unit, of which data source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog import builder as cogbuilder
from grafana_foundation_sdk.cog import variants as cogvariants
from grafana_foundation_sdk.models import dashboard as models

PROMETHEUS, POSTGRES, TEMPO = "ltp-prometheus", "ltp-postgres", "ltp-tempo"
# Facts that are drawn into the panels.
ANNOTATED = (
    "ltp.job.v1.started",
    "ltp.checkpoint.v1.written",
    "ltp.regression.v1.found",
    "ltp.calibration.v1.drifted",
    "ltp.job.v1.succeeded",
    "ltp.job.v1.failed",
    "ltp.job.v1.cancelled",
)
Kind = Literal["lines", "number", "table"]


@dataclass(frozen=True)
class Ask:
    """A question: PromQL, or SQL where `source` is Postgres; `legend` names its series."""

    text: str
    legend: str = ""
    source: Literal["prometheus", "postgres"] = "prometheus"


@dataclass(frozen=True)
class Panel:
    """One panel; `width` of 24 columns."""

    title: str
    asks: tuple[Ask, ...]
    unit: str = "short"
    kind: Kind = "lines"
    width: int = 8
    told: str = ""


@dataclass(frozen=True)
class Variable:
    """A choice above a dashboard, its values asked of Postgres."""

    name: str
    label: str
    sql: str


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels, and whether it shows the events of jobs as annotations."""

    uid: str
    title: str
    told: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[Variable, ...] = ()

    def expressions(self) -> list[str]:
        """Every PromQL expression."""
        return [ask.text for _, row in self.rows for panel in row for ask in panel.asks if ask.source == "prometheus"]

    def queries(self) -> list[str]:
        """Every SQL query, those of variables first."""
        asked = [ask.text for _, row in self.rows for panel in row for ask in panel.asks if ask.source == "postgres"]
        return [variable.sql for variable in self.variables] + asked


def prom(text: str, legend: str = "") -> Ask:
    """A question for Prometheus."""
    return Ask(text, legend)


def sql(text: str) -> Ask:
    """A question for Postgres; one with a column `time` is drawn over it."""
    return Ask(text, "", "postgres")


def lines(title: str, *asks: Ask, unit: str = "short", width: int = 8, told: str = "") -> Panel:
    """Curves over time."""
    return Panel(title, asks, unit, "lines", width, told)


def number(title: str, *asks: Ask, unit: str = "short", width: int = 4) -> Panel:
    """The newest value, large."""
    return Panel(title, asks, unit, "number", width)


def rows_of(title: str, *asks: Ask, width: int = 24) -> Panel:
    """A table."""
    return Panel(title, asks, "short", "table", width)


@dataclass
class _SqlQuery(cogvariants.Dataquery):
    text: str
    ref_id: str
    over_time: bool

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": {"type": "grafana-postgresql-datasource", "uid": POSTGRES},
            "format": "time_series" if self.over_time else "table",
            "rawQuery": True,
            "rawSql": self.text,
            "editorMode": "code",
        }


class _SqlBuilder(cogbuilder.Builder[cogvariants.Dataquery]):
    def __init__(self, query: _SqlQuery) -> None:
        self._query = query

    def build(self) -> cogvariants.Dataquery:
        return self._query


def built(board: Board) -> dict[str, Any]:
    """The dashboard as Grafana takes it. Nothing in it depends on when it was made."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.told)
        .tags(["ltp"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .editable()
    )
    for variable in board.variables:
        made = made.with_variable(_variable(variable))
    for title, row in board.rows:
        made = made.with_row(dashboard.Row(title))
        for panel in row:
            made = made.with_panel(_panel(panel))
    plain = _plain(made.build())
    # The SDK has no annotation that asks in SQL.
    plain["annotations"] = {"list": [_events("job_id::text = '$job'" if board.variables else "true")]}
    return plain


def _panel(panel: Panel) -> Any:
    kinds: dict[Kind, Any] = {"lines": timeseries, "number": stat, "table": table}
    made = kinds[panel.kind].Panel().title(panel.title).unit(panel.unit).span(panel.width).height(8)
    source = POSTGRES if panel.asks[0].source == "postgres" else PROMETHEUS
    made = made.datasource(_source(source))
    if panel.told:
        made = made.description(panel.told)
    for index, ask in enumerate(panel.asks):
        made = made.with_target(_target(ask, chr(ord("A") + index), panel.kind))
    return made


def _target(ask: Ask, ref_id: str, kind: Kind) -> Any:
    if ask.source == "postgres":
        over_time = re.search(r'\bAS "?time"?\b', ask.text) is not None and kind == "lines"
        return _SqlBuilder(_SqlQuery(ask.text, ref_id, over_time))
    made = prometheus.Dataquery().expr(ask.text).ref_id(ref_id).datasource(_source(PROMETHEUS))
    made = made.legend_format(ask.legend or "__auto")
    return made.instant() if kind != "lines" else made.range()


def _source(uid: str) -> models.DataSourceRef:
    kinds = {PROMETHEUS: "prometheus", POSTGRES: "grafana-postgresql-datasource", TEMPO: "tempo"}
    return models.DataSourceRef(kinds[uid], uid)


def _variable(variable: Variable) -> Any:
    made = dashboard.QueryVariable(variable.name).label(variable.label).query(variable.sql)
    return made.datasource(_source(POSTGRES)).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)


def _events(condition: str) -> dict[str, Any]:
    """What happened to jobs, drawn over every panel: read from the timeline, so that nobody has to write it to Grafana."""
    query = (
        "SELECT at AS time, replace(subject, 'ltp.', '') || coalesce(' ' || (data->>'step'), '') AS text, 'ltp' AS tags "
        f"FROM gateway.events WHERE subject IN ({', '.join(repr(each) for each in ANNOTATED)}) "
        f"AND {condition} AND $__timeFilter(at) ORDER BY seq"
    )
    target = {"refId": "Anno", "format": "table", "rawQuery": True, "rawSql": query, "editorMode": "code"}
    source = {"type": "grafana-postgresql-datasource", "uid": POSTGRES}
    return {"name": "Jobs", "enable": True, "iconColor": "blue", "datasource": source, "target": target}


def _plain(value: Any) -> Any:
    """What an SDK object is in JSON."""
    if hasattr(value, "to_json"):
        return _plain(value.to_json())
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}  # type: ignore[misc]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]  # type: ignore[misc]
    return value.value if isinstance(value, Enum) else value
