"""vLLM says an answer once, when it is complete; loaded by `VERL_USE_EXTERNAL_MODULES=ltp_verl.whole_answers`.

verl reads nothing but the last of vLLM's outputs for a response, and its token ids alone. By default vLLM makes one for each
token, with its text and an object for its probability, in the one process that talks to the agents: on an H200 generation
took the time of those objects, not of the device (docs/evidence/grpo-h200.md).
"""

from __future__ import annotations

from typing import Any

import ray
from verl.workers.rollout.replica import RolloutReplicaRegistry


def _replica() -> Any:
    # Only where vLLM generates can it be imported; verl loads this module in each of its processes.
    from verl.workers.rollout.vllm_rollout import vllm_async_server as verl_vllm

    return replica_of(verl_vllm)


def replica_of(verl_vllm: Any) -> Any:
    """Verl's replica whose server asks the engine for whole answers."""
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports] # only on a GPU host

    class WholeAnswers(verl_vllm.vLLMHttpServer):  # type: ignore[misc]
        async def generate(self, prompt_ids: Any, sampling_params: dict[str, Any], *rest: Any, **more: Any) -> Any:
            asked: dict[str, Any] = {"output_kind": RequestOutputKind.FINAL_ONLY, "flat_logprobs": True}
            # Who stops at words needs the words.
            if not sampling_params.get("stop"):
                asked["detokenize"] = False
            return await super().generate(prompt_ids, {**asked, **sampling_params}, *rest, **more)

    class Replica(verl_vllm.vLLMReplica):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.server_class = ray.remote(WholeAnswers)

    return Replica


RolloutReplicaRegistry.register("vllm", _replica)
