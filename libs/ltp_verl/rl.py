"""verl's reinforcement learning with a stop file: `python -m ltp_verl.rl OVERRIDE...`.

A signal cannot do it: the trainer lives in a Ray actor, and the driver's handlers never run once Ray is up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from ltp_verl.stop import stop_requested


class StoppablePPOTrainer(PPOTrainerSync):
    """Ends after the current step, with a checkpoint, once the stop file exists."""

    def on_step_end(self) -> None:
        super().on_step_end()
        if not stop_requested():
            return
        saved = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}", "data.pt")
        if not saved.exists():
            self._save_checkpoint()
        # fit() goes on while the step is not beyond the total: this one is logged, and the next never starts.
        self.total_training_steps = self.global_steps


# Ray hides the class that its decorator wrapped, and an actor class cannot be derived from.
_TaskRunner: Any = TaskRunnerV1.__ray_metadata__.modified_class  # pyright: ignore[reportAttributeAccessIssue]


@ray.remote
class StoppableTaskRunner(_TaskRunner):
    """verl's task runner, with the trainer above in the place of verl's own."""

    def run(self, config: DictConfig) -> None:
        trainer_base.TRAINER_REGISTRY["sync"] = StoppablePPOTrainer
        super().run(config)


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Train as `config` says."""
    auto_set_device(config)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=StoppableTaskRunner)


if __name__ == "__main__":
    main()
