"""The rollout `hf_cpu`: RL generates with transformers, since vLLM cannot reload weights on a CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from ltp_verl.sampling import Request, Sample, SamplingRule, sample_batch

MAX_BATCH = 64
# verl sends a step's prompts one by one; this is how long a batch waits for the next of them.
GATHER_SECONDS = 0.02


def _server_name(replica_rank: int) -> str:
    return f"ltp_hf_cpu_server_{replica_rank}"


class HfCpuServer:
    """A Ray actor that answers generation requests in batches and takes new weights between two batches."""

    def __init__(self, config: Any, model_config: Any) -> None:
        self.response_length: int = omega_conf_to_dataclass(config).response_length
        self.model = AutoModelForCausalLM.from_pretrained(
            model_config.path, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(model_config.path)
        listed = self.model.generation_config.eos_token_id
        self.ends = {*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id} - {None}
        self.global_steps = 0
        self.waiting: list[tuple[Request, asyncio.Future[Sample]]] = []
        self.model_lock = asyncio.Lock()

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """One response to `prompt_ids`, with the log-probability of each of its tokens."""
        limit = sampling_params.get("max_tokens") or sampling_params.get("max_new_tokens") or self.response_length
        request = Request(list(map(int, prompt_ids)), int(limit), SamplingRule.of(sampling_params))
        answer: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, answer))
        await asyncio.sleep(GATHER_SECONDS)
        async with self.model_lock:
            # Whoever gets the lock first answers for all that wait; the others find their answer there.
            while not answer.done():
                await self._answer_batch()
        sample = await answer
        return TokenOutput(
            token_ids=sample.token_ids,
            log_probs=sample.log_probs if sampling_params.get("logprobs") else None,
            stop_reason="completed",
            num_preempted=0,
            extra_fields={"global_steps": self.global_steps},
        )

    async def _answer_batch(self) -> None:
        rule = self.waiting[0][0].rule
        batch = [item for item in self.waiting if item[0].rule == rule][:MAX_BATCH]
        self.waiting = [item for item in self.waiting if item not in batch]
        try:
            requests = [request for request, _ in batch]
            samples = await asyncio.to_thread(sample_batch, self.model, requests, rule, self.ends)
        except Exception as error:
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), sample in zip(batch, samples, strict=True):
            answer.set_result(sample)

    async def update_weights(self, weights: dict[str, Any], global_steps: int | None) -> None:
        """Load the trainer's weights. Raises RuntimeError for any name that does not fit this model."""
        async with self.model_lock:
            tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
            result = self.model.load_state_dict(tensors, strict=False)
            tied = set(self.model.all_tied_weights_keys or ())
            if result.unexpected_keys or set(result.missing_keys) - tied:
                raise RuntimeError(f"the trainer's weights do not fit the rollout's model: {result}")
            self.global_steps = self.global_steps if global_steps is None else global_steps

    async def _nothing(self, *_: Any, **__: Any) -> None:
        """Sleeping, waking and profiling mean nothing to a model that stays in host memory."""

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = _nothing
    abort_all_requests = resume_generation = start_profile = stop_profile = _nothing


class HfCpuRollout(BaseRollout):
    """The trainer's side, one per worker: sends the weights of each step to the server."""

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        *,
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        """Hand over full tensors in float32 through Ray's object store."""
        arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in weights}
        server: Any = ray.get_actor(_server_name(0))
        await server.update_weights.remote(arrays, global_steps)


class HfCpuReplica(RolloutReplica):
    """One server for the whole job; the recipe allows one process on a CPU."""

    async def launch_servers(self) -> None:
        name = _server_name(self.replica_rank)
        # No CPU slot of its own: it works only while the trainer waits for it.
        actor = ray.remote(HfCpuServer).options(name=name, num_cpus=0, max_concurrency=self.max_concurrency)
        server: Any = actor.remote(self.config, self.model_config)
        self._server_handle = server
        self._server_address = name
        self.servers = [server]
