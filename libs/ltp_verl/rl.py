"""verl's reinforcement learning with a stop file: `python -m ltp_verl.rl OVERRIDE...`.

A signal cannot do it: the trainer lives in a Ray actor, and the driver's handlers never run once Ray is up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from ltp_verl import samples
from ltp_verl.stop import stop_requested
from ltp_verl.tracing import run_traced

# verl looks every 2 s whether the responses are there, so that a step whose responses take 3 s waits 4.
_POLL_SECONDS = 0.1
_balanced: Callable[..., list[list[int]]] = vars(trainer_base)["get_seqlen_balanced_partitions"]


class RewardFailedError(RuntimeError):
    """No response of a step could be judged, so that there is nothing to learn from."""


class StoppablePPOTrainer(PPOTrainerSync):
    """Ends after the current step, with a checkpoint, once the stop file exists; counts rewards that failed."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self._failed_rewards = FailedRewards()

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = _POLL_SECONDS
        return buffer

    def _consume_sync_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = super()._consume_sync_metrics()
        return metrics | self._failed_rewards.of_step(
            self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        )

    def _log_rollout_data(self, batch: Any, timing_raw: dict[str, Any], rollout_data_dir: str) -> None:
        # A few responses, before verl fetches and decodes them all.
        kept = samples.chosen(batch.keys)
        few = replace(batch, keys=[batch.keys[index] for index in kept], tags=[batch.tags[index] for index in kept])
        super()._log_rollout_data(few, timing_raw, rollout_data_dir)

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[Any],
        reward_extra_infos_dict: dict[str, list[Any]],
        dump_path: str,
    ) -> None:
        """Keep what verl would write into a file a step in one file beside the folder it was told."""
        keys = [str(key) for key in reward_extra_infos_dict.get("uid", [str(index) for index in range(len(inputs))])]
        lines = [
            samples.line(self.global_steps, keys[index], inputs[index], outputs[index], gts[index], scores[index])
            # By the prompt: the keys of a validation are drawn anew each time, and the same rows are to be seen again.
            for index in sorted(range(len(keys)), key=lambda index: (inputs[index], keys[index]))[
                : samples.MOST_SAMPLES
            ]
        ]
        samples.keep(Path(dump_path).with_suffix(".jsonl"), lines)

    def on_step_end(self) -> None:
        super().on_step_end()
        if not stop_requested():
            return
        saved = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}", "data.pt")
        if not saved.exists():
            self._save_checkpoint()
        # fit() goes on while the step is not beyond the total: this one is logged, and the next never starts.
        self.total_training_steps = self.global_steps


class FailedRewards:
    """Counts the lines that the reward workers have written since it last looked."""

    def __init__(self) -> None:
        name = os.environ.get("LTP_REWARD_ERRORS")
        self._file = None if name is None else Path(name)
        self._read = 0
        self._total = 0

    def of_step(self, responses: int) -> dict[str, float]:
        """Failures so far, and their share of this step's `responses`. Raises RewardFailedError when all failed."""
        if self._file is None:
            return {}
        lines = self._new_lines()
        self._total += len(lines)
        if len(lines) >= responses:
            raise RewardFailedError(f"no response of this step could be rewarded: {lines[-1].decode()[:500]}")
        return {"reward/errors": float(self._total), "reward/error_share": len(lines) / responses}

    def _new_lines(self) -> list[bytes]:
        if self._file is None or not self._file.exists():
            return []
        with self._file.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()


def balanced_partitions(seqlen_list: Any, k_partitions: int, equal_size: bool) -> list[list[int]]:
    """Verl's partitions of a batch among trainers; where there is one, all of it, and else from numbers, not tensors.

    verl hands over a tensor, of whose elements its search makes and compares objects: 0.3 s for 1,024 responses.
    """
    if k_partitions == 1:
        return [[*range(len(seqlen_list))]]
    return _balanced(seqlen_list.tolist(), k_partitions=k_partitions, equal_size=equal_size)


# Ray hides the class that its decorator wrapped, and an actor class cannot be derived from.
_TaskRunner: Any = TaskRunnerV1.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]


@ray.remote
class StoppableTaskRunner(_TaskRunner):
    """verl's task runner, with the trainer above in the place of verl's own."""

    def run(self, config: DictConfig) -> None:
        # Here, in the actor: of this program's module it gets the classes, not what the module did.
        trainer_base.TRAINER_REGISTRY["sync"] = StoppablePPOTrainer
        trainer_base.get_seqlen_balanced_partitions = balanced_partitions  # pyright: ignore[reportPrivateImportUsage]
        super().run(config)


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Train as `config` says."""
    auto_set_device(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=StoppableTaskRunner)


if __name__ == "__main__":
    run_traced(main)
