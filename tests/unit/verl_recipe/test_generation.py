"""Our generation helpers store what verl's own would, together for a prompt, and judge verifiers without another process."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.training
ROW = {
    "uid": "u", "global_steps": 3, "raw_prompt": [{"role": "user", "content": "1 + 1?"}], "data_source": "sums",
    "reward_model": {"ground_truth": "2"}, "extra_info": {"index": 0},
}  # fmt: skip


class Words:
    """A tokenizer of one word a number."""

    def decode(self, tokens: Any, **_: Any) -> str:
        return " ".join(str(int(token)) for token in tokens)


class Agent:
    """Answers with as many tokens as its turn, the last of which is 2; the third breaks when told to."""

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks

    async def run(self, sampling_params: Any, **row: Any) -> Any:
        from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

        await asyncio.sleep(0)
        turn = int(row["session_id"])
        if self.breaks and turn == 2:
            raise RuntimeError("no answer")
        answer = [9] * turn + [2]
        return AgentLoopOutput(
            prompt_ids=[5, 6, 7], response_ids=answer, response_mask=[1] * len(answer), num_turns=2,
            response_logprobs=[-0.5] * len(answer), metrics=AgentLoopMetrics(),
            extra_fields={"min_global_steps": 3, "max_global_steps": 3, "turn_scores": []},
        )  # fmt: skip


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is put into the store."""
    pytest.importorskip("verl")
    monkeypatch.setenv("LTP_REWARD", json.dumps({"kind": "verifier", "verifier": "numeric", "max_response_length": 8}))
    import transfer_queue

    found: list[dict[str, Any]] = []

    async def put(**what: Any) -> None:
        found.append(what)

    monkeypatch.setattr(transfer_queue, "async_kv_batch_put", put)
    return found


def _worker(agent: Agent) -> Any:
    from ltp_verl.generation import GroupWorker
    from ltp_verl.reward_manager import PlatformRewards

    kind: Any = GroupWorker.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]
    worker = object.__new__(kind)
    worker.config, worker.processor, worker.distillation_enabled, worker.tokenizer = None, None, False, Words()
    worker.reward_loop_worker_handles, worker.mm_processor_kwargs = None, {}
    worker._agents, worker._under_way, worker._rows = {"single_turn_agent": agent}, Counter(), defaultdict(list)
    worker._rewards = PlatformRewards(None, Words(), None)
    return worker


def _answers(worker: Any, sessions: int = 3) -> list[Any]:
    async def group() -> list[Any]:
        worker._rewards.loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(
                worker._run_agent_loop(
                    {}, {"validate": False}, agent_name="single_turn_agent", trace=False, session_id=turn, **ROW
                )
                for turn in range(sessions)
            ),
            return_exceptions=True,
        )

    return asyncio.run(group())


def test_a_group_is_stored_at_once_as_verl_stores_each_of_it(puts: list[dict[str, Any]]) -> None:
    worker = _worker(Agent())
    assert _answers(worker) == [None, None, None]
    (together,) = puts
    assert not worker._rows and not worker._under_way
    assert together["partition_id"] == "train" and together["keys"] == ["u_0_0", "u_1_0", "u_2_0"]

    # verl's own way, of the same answers with the rewards they were given.
    async def one_by_one() -> None:
        for turn in range(3):
            output = await Agent().run({}, session_id=turn)
            output.reward_score = 1.0
            output.extra_fields["reward_extra_info"] = {"acc": 1.0, "reward_error": 0.0}
            await type(worker).__mro__[1]._agent_loop_postprocess(worker, output, False, session_id=turn, **ROW)

    worker._rewards = None
    asyncio.run(one_by_one())
    import torch

    for turn, alone in enumerate(puts[1:]):
        assert alone["keys"] == [together["keys"][turn]] and alone["tags"] == [together["tags"][turn]]
        assert set(alone["fields"].keys()) == set(together["fields"].keys())
        for name in alone["fields"].keys():  # noqa: SIM118 # a TensorDict iterates over its rows
            mine, theirs = together["fields"].get(name)[turn], alone["fields"].get(name)[0]
            if isinstance(theirs, torch.Tensor):
                assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype, name
            elif name != "metrics":
                assert getattr(mine, "data", mine) == getattr(theirs, "data", theirs), name


def test_a_session_that_breaks_takes_no_other_with_it(puts: list[dict[str, Any]]) -> None:
    worker = _worker(Agent(breaks=True))
    answers = _answers(worker)
    assert answers[:2] == [None, None] and isinstance(answers[2], RuntimeError)
    assert [put["keys"] for put in puts] == [["u_0_0", "u_1_0"]]
    assert not worker._rows and not worker._under_way


def test_verifiers_judge_here_and_other_rewards_where_verl_has_them(puts: list[dict[str, Any]]) -> None:
    asked: list[Any] = []
    worker = _worker(Agent())
    _answers(worker, sessions=1)
    assert puts[0]["fields"]["rm_scores"][0].tolist() == [1.0]
    worker._rewards = None

    async def compute_score(data: Any) -> dict[str, Any]:
        asked.append(data)
        return {"reward_score": 0.25, "reward_extra_info": {}}

    worker.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=compute_score))]
    worker._rewards = None

    async def run() -> None:
        await worker._run_agent_loop(
            {}, {"validate": True}, agent_name="single_turn_agent", trace=False, session_id=0, **ROW
        )

    asyncio.run(run())
    assert len(asked) == 1 and puts[1]["partition_id"] == "val"
    assert puts[1]["fields"]["rm_scores"][0].tolist() == [0.25]
