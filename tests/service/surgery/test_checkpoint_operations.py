"""Averages, selections, exports and differences as they are carried out, on small models written to disk."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.operate import check
from tests.service.surgery.merge_models import carry_out, write


def weights(path: Path) -> dict[str, Any]:
    return {name: t for file in path.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"step-{step}", step) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("how", "shares"),
    [
        ({}, (1 / 3, 1 / 3, 1 / 3)),
        ({"method": "last_k", "k": 2}, (0, 0.5, 0.5)),
        ({"method": "ema", "decay": 0.5}, (0.25, 0.25, 0.5)),
        ({"method": "weighted", "weights": [1, 2, 5]}, (0.125, 0.25, 0.625)),
    ],
)
def test_averages(steps: list[Path], tmp_path: Path, how: dict[str, Any], shares: tuple[float, ...]) -> None:
    out = tmp_path / "out"
    carry_out("average", {"models": [str(path) for path in steps]} | how, out)
    theirs = [weights(path) for path in steps]
    for name, weight in weights(out).items():
        exact = sum(share * t[name].double() for share, t in zip(shares, theirs, strict=True))
        # One rounding to bfloat16 of a sum in float32.
        assert torch.allclose(weight.double(), exact, rtol=2**-8, atol=1e-6), name
    assert "base_model_relation: merge" in (out / "README.md").read_text()


def test_interpolation_ends_are_the_models(steps: list[Path], tmp_path: Path) -> None:
    for alpha, end in ((0.0, steps[0]), (1.0, steps[1])):
        recipe = {"models": [str(steps[0]), str(steps[1])], "method": "interpolate", "alpha": alpha}
        carry_out("average", recipe, tmp_path / f"at-{alpha}")
        found, wanted = weights(tmp_path / f"at-{alpha}"), weights(end)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_steps_out_of_order_are_refused_where_order_counts(steps: list[Path], tmp_path: Path) -> None:
    backwards = {"models": [str(path) for path in reversed(steps)]}
    with pytest.raises(LtpError, match="not after"):
        carry_out("average", backwards | {"method": "ema", "decay": 0.5}, tmp_path / "out")
    carry_out("average", backwards, tmp_path / "out")


def test_another_architecture_is_refused(steps: list[Path], tmp_path: Path) -> None:
    strange = write(tmp_path / "strange", 4, hidden_size=32)
    with pytest.raises(LtpError) as caught:
        carry_out("average", {"models": [str(steps[0]), str(strange)]}, tmp_path / "out")
    assert caught.value.code == ErrorCode.OPERATION_REFUSED and not (tmp_path / "out").exists()


def scored(steps: list[Path], *scores: float | None, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"model": str(p), "score": s} | more for p, s in zip(steps, scores, strict=False)]}


def test_a_selection_writes_the_chosen_model_and_why(steps: list[Path], tmp_path: Path) -> None:
    recipe = scored(steps, 0.60, 0.68, 0.70, rows=200)
    recipe["candidates"][1]["report"] = 0.66
    answer = carry_out("select", recipe | {"selected_on": "validation", "reported_on": "test"}, tmp_path / "out")
    found, wanted = weights(tmp_path / "out"), weights(steps[1])
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    report = answer["report"]
    assert report["chosen"] == str(steps[1]) and report["best_by_score"] == str(steps[2])
    assert report["reported"] == 0.66 and report["tied"] == [str(steps[1]), str(steps[2])] and not report["findings"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


def test_a_missing_score_stops_a_selection_before_anything_is_written(steps: list[Path], tmp_path: Path) -> None:
    with pytest.raises(LtpError, match="step-2 has no score"):
        carry_out("select", scored(steps, 0.5, None, 0.7), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    plan = check(
        {"kind": "select", "recipe": scored(steps, 0.5, None, 0.7) | {"nan": "skip"}, "out": str(tmp_path / "o")}
    )
    assert plan["report"]["chosen"] == str(steps[2])
    assert {f["code"] for f in plan["findings"]} == {"not_reported", "scores_missing"}


def test_an_export_converts_and_looks_back(steps: list[Path], tmp_path: Path) -> None:
    answer = carry_out("export", {"model": str(steps[0]), "dtype": "float32"}, tmp_path / "wide")
    assert (
        answer["report"]["verified"]
        and json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    )
    source, wide = weights(steps[0]), weights(tmp_path / "wide")
    assert all(torch.equal(wide[name], source[name].float()) for name in source)
    carry_out("export", {"model": str(tmp_path / "wide"), "dtype": "bfloat16"}, tmp_path / "back")
    back = weights(tmp_path / "back")
    assert all(torch.equal(back[name], source[name]) for name in source)
    many = {"model": str(steps[0]), "max_file_bytes": 1 << 20}
    assert carry_out("export", many, tmp_path / "same")["report"]["tensors"] == len(source)


def test_a_value_that_the_type_cannot_hold_is_refused(steps: list[Path], tmp_path: Path) -> None:
    content = weights(steps[0])
    content["model.norm.weight"][3] = 1e6
    save_file(content, steps[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LtpError, match="infinity in F16"):
        carry_out("export", {"model": str(steps[0]), "dtype": "float16"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_named(steps: list[Path], tmp_path: Path) -> None:
    (tmp_path / "megatron" / "dist_ckpt").mkdir(parents=True)
    with pytest.raises(LtpError, match=r"config\.json does not exist"):
        carry_out("export", {"model": str(tmp_path / "megatron")}, tmp_path / "out")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "fsdp_config.json").write_text("{}")
    with pytest.raises(LtpError, match="shards, not a model"):
        carry_out("average", {"models": [str(steps[0]), str(tmp_path / "shards")]}, tmp_path / "out")
    with pytest.raises(LtpError, match="no model directory"):
        carry_out("export", {"model": str(tmp_path / "nowhere")}, tmp_path / "out")


def test_a_difference_by_layers(steps: list[Path], tmp_path: Path) -> None:
    base = weights(steps[0])
    changed = dict(base)
    name = "model.layers.1.mlp.up_proj.weight"
    changed[name] = (base[name].float() * 1.5).bfloat16()
    save_file(changed, steps[1] / "model.safetensors", metadata={"format": "pt"})
    answer = carry_out("diff", {"model": str(steps[1]), "base_model": str(steps[0])}, tmp_path / "diff")
    rows = {row["layer"]: row for row in answer["report"]["layers"]}
    assert [key for key, row in rows.items() if row["relative_change"]] == ["layer 1"]
    one = json.loads((tmp_path / "diff" / "tensors.json").read_text())[name]
    assert one["relative_change"] == pytest.approx(0.5, rel=1e-2) and one["cosine"] == pytest.approx(1, abs=1e-4)
    changes = (changed[name].double() - base[name].double()).norm() / torch.cat(
        [t.double().flatten() for t in base.values()]
    ).norm()
    assert math.isclose(answer["report"]["whole"]["relative_change"], float(changes), rel_tol=1e-9)


@pytest.mark.slow
@pytest.mark.training
def test_a_greedy_soup_leaves_out_what_hurts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.tiny_model import write_tiny_model

    good, twin, bad = (tmp_path / name for name in ("step-1", "step-2", "step-3"))
    for path in (good, twin, bad):
        path.mkdir()
        write_tiny_model(path)
    broken = {name: weight * -30 for name, weight in weights(bad).items()}
    save_file(broken, bad / "model.safetensors", metadata={"format": "pt"})
    rows = [json.dumps({"prompt": "1 + 1 =", "response": "2"}), json.dumps({"text": "The cat sat."})]
    (tmp_path / "held.jsonl").write_text("\n".join(rows) + "\n")
    recipe = {"models": [str(p) for p in (bad, good, twin)], "method": "greedy_soup"}
    with pytest.raises(LtpError, match="no file"):
        carry_out("average", recipe | {"held_out": str(tmp_path / "no.jsonl")}, tmp_path / "out")
    answer = carry_out("average", recipe | {"held_out": str(tmp_path / "held.jsonl")}, tmp_path / "out")
    report = answer["report"]
    assert report["kept"] == [str(good), str(twin)] and [t["kept"] for t in report["trials"]] == [True, True, False]
    assert report["loss"] == pytest.approx(report["best_single"], rel=1e-3)
    assert not (tmp_path / "out" / "candidate").exists()
