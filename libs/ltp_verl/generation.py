"""verl's helpers that turn prompts into judged responses, with less work for each; named by `rollout.agent.agent_loop_manager_class`.

verl builds an agent by Hydra for every response, sends each to another process for its reward and to the store alone. Short
responses cost more than generating them (docs/evidence/grpo-h200.md). Here a process has one agent, judges what needs no
foreign code itself, and stores the responses to a prompt together.
"""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict
from typing import Any

import hydra
import ray
import torch
import transfer_queue
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from verl.experimental.agent_loop import agent_loop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from ltp_verl.reward_manager import PlatformRewards

# The one agent whose objects keep nothing of a response.
_SHARED = "single_turn_agent"
# Rewards of the platform's own, quick and without side effects.
_HERE = frozenset(["verifier"])
# Ray hides the class that its decorator wrapped, and an actor class cannot be derived from.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]
Row = tuple[str, dict[str, Any], dict[str, Any]]


@ray.remote
class GroupWorker(_Worker):
    """verl's worker; a group is the responses to one prompt."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._agents: dict[str, Any] = {}
        self._under_way: Counter[str] = Counter()
        self._rows: defaultdict[str, list[Row]] = defaultdict(list)
        rewards = PlatformRewards(self.config, self.tokenizer, None)
        self._rewards = rewards if rewards.reward["kind"] in _HERE else None
        # What is there by now stays for good: no collection has to look at it.
        gc.collect()
        gc.freeze()

    async def _run_agent_loop(
        self, sampling_params: Any, trajectory: Any, *, agent_name: str, trace: bool = True, **row: Any
    ) -> None:
        if agent_name != _SHARED or trace:
            await super()._run_agent_loop(sampling_params, trajectory, agent_name=agent_name, trace=trace, **row)
            return
        group = str(row["uid"])
        # All of a group begin before the first of them waits for anything.
        self._under_way[group] += 1
        try:
            output = await self._agent(agent_name).run(sampling_params, **row)
            await self._agent_loop_postprocess(output, trajectory["validate"], **row)
        finally:
            self._under_way[group] -= 1
            if not self._under_way[group]:
                del self._under_way[group]
                await _store(self._rows.pop(group, []), "val" if trajectory["validate"] else "train")

    def _agent(self, name: str) -> Any:
        """As verl makes it, once."""
        if name not in self._agents:
            wrap: Any = agent_loop.DictConfigWrap
            self._agents[name] = hydra.utils.instantiate(
                config=agent_loop._agent_loop_registry[name],  # pyright: ignore[reportPrivateUsage] # verl has no other way
                trainer_config=wrap(config=self.config),
                server_manager=self.llm_client,
                tokenizer=self.tokenizer,
                processor=self.processor,
                hf_model_type=self.hf_model_type,
                dataset_cls=self.dataset_cls,
                data_config=wrap(self.config.data),
                tools=agent_loop.ToolListWrap(self.tools),
            )
        return self._agents[name]

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **row: Any) -> None:
        alone = isinstance(output, list) or self.processor is not None or self.distillation_enabled
        if alone or not self._under_way[str(row["uid"])]:
            await super()._agent_loop_postprocess(output, validate, **row)
            return
        await self._compute_score([output], kwargs=row)
        self._rows[str(row["uid"])].append(_row(output, row))

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        last = outputs[-1]
        if self._rewards is None or last.reward_score is not None:
            await super()._compute_score(outputs, kwargs)
            return
        started = time.perf_counter()
        found = await self._rewards.judged(last.response_ids, kwargs)
        last.reward_score = found["reward_score"]
        last.extra_fields["reward_extra_info"] = found["reward_extra_info"]
        last.metrics.compute_score = time.perf_counter() - started


def _row(output: Any, row: dict[str, Any]) -> Row:
    """Key, fields and tag of one response, as verl's own worker names them."""
    field: dict[str, Any] = output.as_dict() | row
    prompt, response = field["prompts"], field["responses"]
    whole = torch.cat([prompt, response])
    field.pop("multi_modal_data", None)
    field |= {
        "loss_mask": field["response_mask"],
        "input_ids": whole,
        "position_ids": torch.arange(len(whole)),
        "multi_modal_inputs": {},
    }
    tag = {
        "status": "success", "prompt_len": len(prompt), "response_len": len(response), "seq_len": len(whole),
        "global_steps": row["global_steps"],
        "min_global_steps": field["extra_fields"].get("min_global_steps"),
        "max_global_steps": field["extra_fields"].get("max_global_steps"),
    }  # fmt: skip
    return f"{row['uid']}_{row['session_id']}_0", field, tag


async def _store(rows: list[Row], partition: str) -> None:
    if not rows:
        return
    keys, fields, tags = zip(*rows, strict=True)
    columns = {name: _column([field[name] for field in fields]) for name in fields[0]}
    await transfer_queue.async_kv_batch_put(
        keys=list(keys), fields=TensorDict(columns, batch_size=[len(rows)]), tags=list(tags), partition_id=partition
    )


def _column(values: list[Any]) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)
    kind: Any = NonTensorStack
    return kind(*values)


class GroupManager(AgentLoopManagerTQ):
    """verl's manager with the workers above."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.agent_loop_workers_class = GroupWorker
