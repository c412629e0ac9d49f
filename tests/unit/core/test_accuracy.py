"""`ltp plan check` on the H200's rows and on rows that are wrong; the bars of the planner's accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ltp.cli.plans import app
from ltp.core.accuracy import check, check_row, spread

MEASURED = Path(__file__).resolve().parents[2] / "data" / "gpu_memory_h200.jsonl"
ROW: dict[str, Any] = {
    "case": "a", "model": "qwen2.5-0.5b", "mode": "bf16", "mb": 4, "seq": 2048, "gc": True, "lora": 0, "loss": "hf",
    "world": 1, "ok": True, "alloc_peak": 20882079744, "nvidia_smi_mib": [23895], "step_s": 0.154,
}  # fmt: skip


def rows() -> list[object]:
    return [json.loads(line) for line in MEASURED.read_text().splitlines()]


def test_the_bars_on_measured_rows() -> None:
    summary = check(rows())["summary"]
    peak, device, step = summary["alloc_peak"], summary["device_total"], summary["step_s"]
    assert peak["median_pct"] <= 0.5 and peak["p95_pct"] <= 2 and peak["max_pct"] <= 5, peak
    assert device["max_pct"] <= 8 and step["median_pct"] <= 15
    assert summary["verdicts"] == {"safe_but_oom": 0, "refused_but_fits": 0}
    assert peak["n"] == 39 and summary["rows"] == {"checked": 42, "not_a_step": 2}


def test_a_model_by_its_name_alone() -> None:
    assert abs(check_row(ROW)["alloc_peak"]["error_pct"]) < 0.5
    spelled = check_row(ROW | {"model": "Qwen/Qwen2.5-0.5B-Instruct"})
    assert spelled["predicted"] == check_row(ROW)["predicted"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "nobody/knows-7b"}, "unusable", "nobody/knows-7b"),
        ({"model": None}, "unusable", "no config"),
        ({"config": {"model_type": "mamba"}}, "unknown", "mamba"),
        ({"config": {"model_type": "llama", "hidden_size": -1}}, "unknown", "num_attention_heads"),
        ({"mb": 0}, "unusable", "mb is 0"),
        ({"mb": True}, "unusable", "mb is True"),
        ({"seq": 1e308}, "unusable", "seq is 1e+308"),
        ({"seq": "2048"}, "unusable", "seq is '2048'"),
        ({"mode": "int8"}, "unusable", "mode is 'int8'"),
        ({"mode": ["bf16"]}, "unusable", "mode is ['bf16']"),
        ({"loss": {}}, "unusable", "loss is {}"),
        ({"lora": -16}, "unusable", "lora is -16"),
        ({"world": 0}, "unusable", "world is 0"),
    ],
)
def test_a_wrong_row_is_a_verdict(change: dict[str, Any], status: str, said: str) -> None:
    found = check_row(ROW | change)
    assert found["status"] == status and said in found["reason"], found


@pytest.mark.parametrize("row", [None, [], "row", 3, {}])
def test_what_is_no_row_is_said_so(row: object) -> None:
    assert check_row(row)["status"] in ("unusable", "not_a_step")


@pytest.mark.parametrize("change", [{"alloc_peak": "much"}, {"alloc_peak": True}, {"nvidia_smi_mib": []}, {"nvidia_smi_mib": [None]}, {"step_s": float("nan")}, {"alloc_peak": -1}])  # fmt: skip
def test_a_measurement_that_is_none_is_left_out(change: dict[str, Any]) -> None:
    found = check_row(ROW | change)
    assert found["status"] == "checked" and next(iter(change)) not in found


def test_running_out_is_foreseen_and_a_time_limit_is_not_judged() -> None:
    found = check_row(ROW | {"mb": 32, "seq": 4096, "gc": False, "ok": False, "oom": True})
    assert not found["predicted"]["fits"] and found["predicted"]["refused"] and found["verdict"] == "right"
    assert check_row(ROW | {"ok": False})["verdict"] == "not_judged"


def test_spread_of_errors() -> None:
    assert spread([])["median_pct"] is None
    assert spread([1.0, 2.0, 9.0]) == {"median_pct": 2.0, "p95_pct": 9.0, "max_pct": 9.0, "n": 3}


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROW) + "\nnot json\n" + json.dumps(ROW | {"model": "x"}) + "\n")
    found = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert [row["status"] for row in said["rows"]] == ["checked", "unusable", "unusable"]
    assert set(said["summary"]) >= {"alloc_peak", "device_total", "step_s", "verdicts"}
    assert "knows" not in CliRunner().invoke(app, ["check", str(file)]).output
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert CliRunner().invoke(app, ["check", str(empty)]).exit_code == 2
    assert CliRunner().invoke(app, ["check", str(tmp_path / "none")]).exit_code == 2
