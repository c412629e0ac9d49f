"""What a host's facts mean, what a gang's processes are told, and how a run's paths become the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltp import locks
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner import delivery
from services.runner.backends.gang import node_spec, port_of
from services.runner.backends.ray import joining
from services.runner.host_findings import NAMES, findings

H200 = "0, NVIDIA H200, 143771, 143000, {driver}\n"
SPEC = LaunchSpec(
    argv=("/venv/bin/python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", "-m", "ltp_verl.sft",
          "model.path='/models/m'", "data.train_files='/models/m.parquet'", "trainer.n_gpus_per_node=4", "trainer.nnodes=1"),
    env={"PYTHONPATH": "/libs", "CUDA_VISIBLE_DEVICES": "0,1"}, cwd="/runs/r/attempt-1", metrics_path="m", stop_file="s",
)  # fmt: skip


def facts(**changes: Any) -> dict[str, Any]:
    packages: dict[str, str | None] = dict(locks.read("gpu"))
    good = {
        "at": 1000.0, "gpus": H200.format(driver="580.65.06"), "memory_bytes": 1 << 40, "python": "3.12.3", "executable": "/p",
        "packages": packages, "torch_cuda": "13.0", "folder": {"real": "/srv", "path": "/srv", "free_bytes": 1 << 40, "escapes": []},
    }  # fmt: skip
    return {**good, **changes, "packages": {**packages, **changes.get("packages", {})}}


def verdicts(clock: float = 1000.0, **changes: Any) -> dict[str, str]:
    found = list(findings(facts(**changes), clock))
    assert [check.name for check in found] == list(NAMES)
    assert all(check.hint for check in found if check.verdict in {"fail", "warn"})
    return {check.name: check.verdict for check in found}


def test_a_host_as_the_lock_says_is_fine() -> None:
    assert set(verdicts().values()) == {"ok"}


@pytest.mark.parametrize(
    ("changes", "step", "verdict"),
    [
        ({"packages": {"torch": "2.6.0+cu121"}}, "torch", "fail"),
        ({"packages": {"torch": None}}, "torch", "fail"),
        ({"packages": {"verl": "0.7.0"}}, "verl", "fail"),
        ({"packages": {"ray": "2.40.0"}}, "packages", "warn"),
        ({"torch_cuda": None}, "cuda", "fail"),
        ({"gpus": H200.format(driver="535.1")}, "driver", "fail"),
        ({"gpus": "No devices were found\n"}, "gpus", "warn"),
        ({"python": "3.13.0"}, "python", "fail"),
        ({"memory_bytes": 1 << 31}, "memory", "fail"),
        ({"folder": {"path": "/srv", "problem": "PermissionError"}}, "work_dir", "fail"),
        ({"folder": {"path": "/srv", "escapes": ["runs"], "free_bytes": 1 << 40}}, "work_dir", "fail"),
        ({"folder": {"path": "/srv", "free_bytes": 1 << 20}}, "disk", "fail"),
        ({"hub": "gaierror"}, "hub", "warn"),
        ({"at": 1005.0}, "clock", "warn"),
        ({"at": 1100.0}, "clock", "fail"),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_do(changes: dict[str, Any], step: str, verdict: str) -> None:
    assert verdicts(**changes)[step] == verdict


def test_each_host_of_a_gang_is_told_its_place() -> None:
    words = node_spec(SPEC, rank=1, nodes=2, address="10.0.0.1", port=23456).argv
    for word in ("--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=23456", "--nproc_per_node=2"):
        assert word in words
    assert {"trainer.n_gpus_per_node=2", "trainer.nnodes=2"} <= set(words)
    assert "--standalone" not in words


def test_what_torchrun_does_not_start_is_not_spread() -> None:
    alone = LaunchSpec(argv=("python", "-m", "ltp_verl.rl"), env={}, cwd="/", metrics_path="m", stop_file="s")
    with pytest.raises(LtpError) as caught:
        node_spec(alone, 0, 2, "a", 1)
    assert caught.value.code is ErrorCode.LAUNCH_FAILED


def test_every_attempt_of_a_run_meets_at_a_port_of_its_own() -> None:
    run = Path("/runs/01a207c0-7ea0-7f3b-8530-528c3197c1ae")
    ports = {port_of(run / f"attempt-{number}") for number in range(1, 9)}
    assert len(ports) > 6
    assert all(1024 < port < 32768 for port in ports)
    assert port_of(run / "attempt-1") == port_of(run / "attempt-1")


def test_paths_become_the_hosts_and_their_neighbours_stay() -> None:
    moved = {"/models/m": "/far/cache/1/m", "/models/m.parquet": "/far/cache/2/m.parquet", "/libs": "/far/libs"}
    spec = delivery.relocated(SPEC, moved, "/far/python")
    assert spec.argv[0] == "/far/python"
    assert "model.path='/far/cache/1/m'" in spec.argv
    assert "data.train_files='/far/cache/2/m.parquet'" in spec.argv
    assert spec.env["PYTHONPATH"] == "/far/libs"
    assert delivery.relocated(SPEC, {"/models": "/x"}, "p").argv[7] == "model.path='/x/m'"
    assert delivery.relocated(SPEC, {"/mod": "/x"}, "p").argv[7] == "model.path='/models/m'"


async def test_a_folder_is_known_by_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = await delivery.digest(tmp_path)
    (tmp_path / "b").write_text("1")
    second = await delivery.digest(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert len({first, second, await delivery.digest(tmp_path)}) == 3


def test_only_a_trainer_on_gpus_joins_the_cluster() -> None:
    words = ("python", "+ray_kwargs.ray_init.num_gpus=1", "ray_kwargs.ray_init.num_cpus=9", "trainer.nnodes=1")
    on_gpu = LaunchSpec(words, {"RAY_ADDRESS": "local", "CUDA_VISIBLE_DEVICES": "0"}, "/", "m", "s")
    joined = joining(on_gpu)
    assert (joined.argv, dict(joined.env)) == (("python", "trainer.nnodes=1"), {"RAY_ADDRESS": "auto"})
    on_cpu = LaunchSpec(words, {"RAY_ADDRESS": "local"}, "/", "m", "s")
    assert joining(on_cpu) is on_cpu


def test_locks_name_what_training_rests_on() -> None:
    assert locks.read("training")["verl"] == locks.read("gpu")["verl"] == "0.9.1"
    assert "torch" not in locks.read("manager")
    assert "asyncssh" in locks.read("manager")
    assert set(locks.versions()["roles"]) == set(locks.ROLES)
    assert [str(d) for d in locks.compare({"a": "1", "b": "2"}, {"a": "1+cpu", "b": None})] == ["b missing (lock 2)"]
