"""Hostile recipes and hostile runs, in tables: nothing runs that was not meant to, and every refusal is a typed one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import ValidationError

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe.verl_0_9 import launch_spec
from services.runner.backends.local import LocalBackend
from services.runner.policy import judge
from tests.service.runner.conftest import LAUNCHER, Attempt
from tests.training.runs import PLAN

HOSTILE = [
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "| touch pwned", "&& touch pwned", "x\ntouch pwned\n", "'; touch pwned; '",
    '"; touch pwned; "', "${oc.env:HOME}", "${now:}", "a=b,c=[1]", "../../../../etc/passwd", "--config-dir=/etc", "~root", "*?[x]",
    "{a:1}", "\\", "é𝄞", "-c", "x" * 900,
]  # fmt: skip

FULL: dict[str, Any] = {
    "name": "fine",
    "algorithm": "grpo",
    "model": {"path": "/models/tiny"},
    "dataset": {"name": "rows", "version": "0" * 64, "train_split": "train"},
    "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-4, "lr_schedule": "constant"},
    "reinforcement": {"scorer": "exact", "estimator": "grpo", "policy_loss": "vanilla", "loss_aggregation": "token-mean"},
    "resources": {"device_kind": "cpu", "labels": {"zone": "a"}, "objective": "throughput"},
    "evaluation": {"split": "test", "scorer": "exact", "checkpoints": "final"},
    "checkpoints": {"keep_last": 1, "metric": "val/loss", "direction": "min"},
    "tracking": ["tensorboard"],
}  # fmt: skip


def text_fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from text_fields(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from text_fields(inner, (*path, index))
    elif isinstance(value, str):
        yield path


FIELDS = [
    *text_fields(FULL),
    ("reinforcement", "reward", "function", "file"),
    ("reinforcement", "reward", "model", "model"),
    ("reinforcement", "reward", "http", "url"),
    ("reinforcement", "reward", "verifier", "pattern"),
    ("critic", "model"),
    ("overrides", 0),
]


def with_text(path: tuple[Any, ...], text: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(json.dumps(FULL))
    if path[:2] == ("reinforcement", "reward"):
        kind, field = path[2:]
        reward = {"kind": kind, field: text} | ({"verifier": "regex"} if kind == "verifier" else {})
        recipe["reinforcement"]["reward"] = reward | ({"source": "x = 1"} if kind == "function" else {})
        return recipe
    if path[0] == "critic":
        return recipe | {"algorithm": "ppo", "critic": {"model": text}}
    if path[0] == "overrides":
        return recipe | {"overrides": [text]}
    place: Any = recipe
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = text
    return recipe


@pytest.mark.parametrize("field", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_words_of_a_shell_in_a_field_are_refused_or_stay_one_word(field: tuple[Any, ...], tmp_path: Path) -> None:
    for text in HOSTILE:
        try:
            recipe = Recipe.model_validate(with_text(field, text))
        except ValidationError:
            continue
        try:
            spec = launch_spec(
                recipe, Plan.model_validate(PLAN), python="python", run_dir=tmp_path, model_path=Path(recipe.model.path),
                train_file=Path("rows.parquet"), validation_file=None, train_rows=64, device_indexes=[0],
            )  # fmt: skip
        except LtpError as error:
            assert error.code in {ErrorCode.INVALID_RECIPE, ErrorCode.ALGORITHM_UNSUPPORTED}, error
            continue
        words = spec.argv[3 : len(spec.argv) - len(recipe.overrides)]
        # Each word is one override of Hydra's grammar whose value is a plain value: no interpolation, no sweep.
        for parsed in OverridesParser.create().parse_overrides(list(words)):
            assert not parsed.is_sweep_override()
            value = parsed.value()
            assert not (isinstance(value, str) and "${" in value.replace("\\${", "")), parsed.input_line
        assert "touch" not in spec.argv[:3]
        assert all("\0" not in word for word in spec.argv)


@pytest.mark.parametrize("field", [("name",), ("dataset", "name"), ("resources", "device_kind"), ("tracking", 0)])
def test_fields_that_are_names_take_none_of_it(field: tuple[Any, ...]) -> None:
    for text in HOSTILE:
        with pytest.raises(ValidationError):
            Recipe.model_validate(with_text(field, text))


def test_what_reaches_a_process_is_what_was_written(attempt: Attempt) -> None:
    echo = "import json, sys; json.dump(sys.argv[1:], open('argv.json', 'w'))"
    attempt.prepare(argv=[sys.executable, "-c", echo, *HOSTILE], env={"X": "; touch pwned"})
    subprocess.run([*LAUNCHER, str(attempt.directory)], check=True, timeout=20)
    assert attempt.end()["exit_code"] == 0
    assert json.loads((attempt.directory / "argv.json").read_text()) == HOSTILE
    assert not list(attempt.directory.rglob("pwned"))


OUTSIDE = ["..", "../..", "../../../etc", "/etc", "link", "link/inside", "checkpoints/../../other", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_a_run_is_read_or_deleted(tmp_path: Path, name: str) -> None:
    backend = LocalBackend(tmp_path)
    run_dir, other = backend.run_dir(uuid4(), 1), tmp_path / "other"
    (run_dir / "checkpoints").mkdir(parents=True)
    (other / "inside").mkdir(parents=True)
    (other / "inside" / "precious").write_text("x")
    (run_dir / "link").symlink_to(other)
    for doing in (backend.remove(run_dir, name), backend.tree(run_dir, name), backend.read(run_dir, name, 0, 10)):
        if name == "" and doing.__name__ != "remove":
            doing.close()
            continue
        with pytest.raises(LtpError) as refused:
            asyncio.run(doing)
        assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert (other / "inside" / "precious").exists()
    assert run_dir.exists()


def test_a_link_inside_a_checkpoint_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    run_dir, other = backend.run_dir(uuid4(), 1), tmp_path / "other"
    step = run_dir / "checkpoints" / "global_step_1"
    step.mkdir(parents=True)
    other.mkdir()
    (other / "precious").write_text("x")
    (step / "link").symlink_to(other)
    asyncio.run(backend.remove(run_dir, "checkpoints/global_step_1"))
    asyncio.run(backend.remove(run_dir, "checkpoints/global_step_1"))
    assert not step.exists()
    assert (other / "precious").exists()


WORLD = """
import os, sys, socket, subprocess, ctypes, torch
def compute_score(data_source, solution_str, ground_truth, extra_info):
    found = []
    for what, do in (
        ("secret", lambda: open(%r).read()),
        ("write", lambda: open(%r, "w").write("x")),
        ("net", lambda: socket.create_connection(("127.0.0.1", %d), timeout=2)),
    ):
        try:
            do()
            found.append(what)
        except OSError:
            pass
    return {"score": float(len(found)), "found": ",".join(found)}
"""


def test_a_reward_that_imports_the_world_reaches_nothing(tmp_path: Path) -> None:
    from ltp_verl.rewards import Asked, open_reward

    hidden = tmp_path / "data"
    hidden.mkdir()
    secret, target = hidden / "secret", tmp_path / "written"
    secret.write_text("hunter2")

    async def judge_once() -> float:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        source = WORLD % (str(secret), str(target), port)
        reward = {"kind": "function", "file": "world.py", "function": "compute_score", "source": source}
        async with open_reward({**reward, "timeout_seconds": 60.0}, [hidden]) as ask:
            score = await ask(Asked("p", "r", "a", "toy", {}))
        server.close()
        return score

    assert asyncio.run(judge_once()) == 0.0
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"state": "running"}', b"\xff\xfe" * 100, b'{"launcher_pid": "1; reboot"}', b"9" * 70_000],
)
def test_a_status_that_is_no_status_is_an_error_and_no_verdict(tmp_path: Path, content: bytes) -> None:
    backend = LocalBackend(tmp_path)
    run_dir = backend.run_dir(uuid4(), 1)
    run_dir.mkdir(parents=True)
    (run_dir / "status.json").write_bytes(content)
    with pytest.raises((LtpError, ValueError, KeyError, TypeError)):
        asyncio.run(backend.status(run_dir))


def test_fields_of_a_status_that_training_forged_are_quoted_and_cut(attempt: Attempt) -> None:
    attempt.start("exit", "1")
    attempt.end()
    status = asyncio.run(LocalBackend().status(attempt.directory))
    assert status is not None
    forged = replace(status, reason="hung", stalled={"last_step": "x" * 10**6, "evidence": ["y" * 10**6] * 1000})
    verdict = judge(forged, stop=None, final_step_saved=False, log_tail="")
    assert verdict.problem is not None
    assert len(verdict.problem.model_dump_json()) < 100_000
