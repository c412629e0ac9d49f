"""Pipelines that cannot be are refused with the line where the fault stands."""

from __future__ import annotations

import pytest

from ltp.contracts.pipeline_graph import expand
from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import parse_pipeline

GOOD = """\
name: p
stages:
  data:
    kind: dataset
    settings: {name: sums, path: /x}
  train:
    kind: train
    matrix: {lr: [0.001, 0.0001]}
    settings:
      recipe:
        name: t
        model: {path: /m}
        dataset: {name: {from: data.name}, version: {from: data.version}}
        training: {steps: 6, batch_size: 8, learning_rate: {from: matrix.lr}}
        evaluation: {}
  judge:
    kind: evaluate
    each: train
    settings: {job: {from: train.job_id}}
  gate:
    kind: gate
    settings:
      conditions:
        - {value: {from: judge.verdict}, differs: regressed}
"""


def test_fan_out_is_paired_and_fanned_in() -> None:
    nodes = {node.key: node.needs for node in expand(parse_pipeline(GOOD))}
    assert nodes == {
        "data": (),
        "train[0]": ("data",),
        "train[1]": ("data",),
        "judge[0]": ("train[0]",),
        "judge[1]": ("train[1]",),
        "gate": ("judge[0]", "judge[1]"),
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("settings: {name: sums, path: /x}", "needs: [gate]\n    settings: {name: sums}", "data -> gate -> judge"),
        ("each: train", "each: trian", "line 18, column 5: stages.judge.each: there is no stage 'trian'"),
        ("kind: gate", "kind: gaet", "line 21, column 5: stages.gate.kind: unknown kind 'gaet'"),
        ("{from: judge.verdict}", "{from: judge.verdikt}", "gives no 'verdikt'"),
        ("{from: judge.verdict}, differs: regressed", "{from: judge.verdict}, at_least: 1", "compares numbers"),
        ("steps: 6", "steps: {from: data.name}", "line 14, column 20: stages.train.settings.recipe.training.steps"),
        ("steps: 6", "stepz: 6", "unknown key"),
        ("evaluation: {}", "resources: {}", "no section `evaluation`"),
        ("{lr: [0.001, 0.0001]}", f"{{lr: [0.001], seed: [{', '.join(map(str, range(200)))}]}}", "limit of 200"),
        ("job: {from: train.job_id}", "job: 0190a000-0000-7000-8000-000000000000", "must be {from: STAGE.job_id}"),
        ("name: p", "name: p\ntriggers: [{event: dataset.frozen, job: null}]\nname: q", "given twice"),
        ("name: p", "name: p\nbogus: 1", "unknown key"),
        ("name: p", "name: 'p; rm -rf /'", "line 1"),
    ],
)
def test_faults_are_named_with_their_place(old: str, new: str, said: str) -> None:
    with pytest.raises(LtpError) as caught:
        parse_pipeline(GOOD.replace(old, new), "p.yaml")
    assert caught.value.code in {ErrorCode.INVALID_PIPELINE, ErrorCode.INVALID_YAML}
    assert said in caught.value.message


def test_ten_thousand_stages_are_refused_with_the_limit() -> None:
    text = "name: p\nstages:\n" + "".join(f"  s{i}: {{kind: gate}}\n" for i in range(10_000))
    with pytest.raises(LtpError, match="10000 stages are more than the limit of 200"):
        parse_pipeline(text)


@pytest.mark.parametrize("text", ["", "[]", "name: p", "name: p\nstages: {}", "name: p\nstages: 3", "\x00"])
def test_what_is_no_pipeline_is_refused(text: str) -> None:
    with pytest.raises(LtpError):
        parse_pipeline(text)
