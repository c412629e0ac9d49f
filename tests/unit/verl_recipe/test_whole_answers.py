"""vLLM is asked for whole answers without text, unless the text is what ends them; batches are parted as verl parts them."""

from __future__ import annotations

import asyncio
import enum
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.training


class Server:
    """What verl's server does with its sampling parameters: hands them to the engine."""

    async def generate(
        self, prompt_ids: Any, sampling_params: dict[str, Any], request_id: str, priority: int = 0
    ) -> dict[str, Any]:
        return {"request_id": request_id, "priority": priority, **sampling_params}


class Replica:
    """verl's replica, as far as it names its server's class."""

    def __init__(self, rank: int, *, gpus_per_node: int) -> None:
        self.rank, self.gpus_per_node, self.server_class = rank, gpus_per_node, Server


class Kind(enum.Enum):
    """vLLM's own, of which it compares members, not values."""

    FINAL_ONLY = 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server that our replica starts."""
    pytest.importorskip("verl")
    named = ModuleType("vllm.sampling_params")
    named.RequestOutputKind = Kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", named)
    from ltp_verl import whole_answers

    replica = whole_answers.replica_of(SimpleNamespace(vLLMHttpServer=Server, vLLMReplica=Replica))
    ours = replica(3, gpus_per_node=2)
    assert (ours.rank, ours.gpus_per_node) == (3, 2)
    return ours.server_class.__ray_metadata__.modified_class()


def asked(server: Any, **parameters: Any) -> dict[str, Any]:
    """What reaches the engine for `parameters`, called as verl's client calls it."""
    return asyncio.run(server.generate(request_id="r", prompt_ids=[1, 2], sampling_params=parameters, priority=4))


def test_an_answer_is_said_once_and_without_text(server: Any) -> None:
    """As verl reads it: the last output's token ids and log-probabilities."""
    found = asked(server, temperature=0.7, logprobs=True)
    assert found == {
        "request_id": "r", "priority": 4, "temperature": 0.7, "logprobs": True,
        "output_kind": Kind.FINAL_ONLY, "flat_logprobs": True, "detokenize": False,
    }  # fmt: skip


def test_who_stops_at_words_gets_them(server: Any) -> None:
    """Without text, vLLM would refuse or run on; and what a caller says himself counts."""
    assert "detokenize" not in asked(server, stop=["</answer>"])
    assert asked(server, flat_logprobs=False)["flat_logprobs"] is False


def test_verl_finds_it_by_the_name_of_vllm(server: Any) -> None:
    """The registry is where verl looks for the replica of a rollout."""
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    from ltp_verl import whole_answers

    assert RolloutReplicaRegistry._registry["vllm"] is whole_answers._replica  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_batch_is_parted_as_verl_parts_it(parts: int) -> None:
    """The same partitions, found without a tensor an element."""
    pytest.importorskip("verl")
    import torch
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    from ltp_verl.rl import balanced_partitions

    lengths = torch.randint(30, 90, (64,), generator=torch.Generator().manual_seed(parts))
    work = calculate_workload(lengths)
    expected = get_seqlen_balanced_partitions(work, k_partitions=parts, equal_size=True)
    assert balanced_partitions(work, k_partitions=parts, equal_size=True) == expected


def test_the_actor_that_trains_parts_batches_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its class by value and never runs this module: what the module does when imported would not reach it."""
    pytest.importorskip("verl")
    import cloudpickle
    from verl.trainer.main_ppo import TaskRunnerV1
    from verl.trainer.ppo.v1 import trainer_base

    from ltp_verl import rl

    monkeypatch.setattr(TaskRunnerV1.__ray_metadata__.modified_class, "run", lambda *_: None)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(trainer_base, "get_seqlen_balanced_partitions", trainer_base.get_seqlen_balanced_partitions)
    runner = rl.StoppableTaskRunner.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]
    cloudpickle.register_pickle_by_value(rl)
    try:
        there = cloudpickle.loads(cloudpickle.dumps(runner))
    finally:
        cloudpickle.unregister_pickle_by_value(rl)
    there.run(there.__new__(there), None)
    assert trainer_base.get_seqlen_balanced_partitions.__name__ == rl.balanced_partitions.__name__
