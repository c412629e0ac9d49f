"""verl's SFT trainer with a stop file, an honest seed and a resume that loses no epoch.

`python -m ltp_verl.sft OVERRIDE...`: with one process it runs without torchrun; with more, `torchrun -m ltp_verl.sft`.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import hydra
import torch
import torch.distributed as dist
from omegaconf import DictConfig
from verl.trainer import sft_trainer
from verl.utils import tensordict_utils
from verl.utils.checkpoint import CheckpointHandler
from verl.utils.device import auto_set_device
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group

from ltp_verl.reshard import data_state
from ltp_verl.stop import stop_requested
from ltp_verl.tracing import run_traced


class BoundaryCheckpointHandler(CheckpointHandler):
    """Resumes at the end of an epoch by starting the next one; verl's own skips it whole.

    The saved data loader has nothing left to give there, while the trainer counts the coming epoch as begun.
    """

    def _load_dataloader_state(self, checkpoint_path: str) -> None:
        if self.resume_global_step % len(self.train_dataloader) != 0:
            state = data_state(Path(checkpoint_path), self.dp_rank, self.train_dataloader.batch_size)
            self.train_dataloader.load_state_dict(state)


class StoppableSFTTrainer(sft_trainer.SFTTrainer):
    """Ends after the current step, with a checkpoint, once the stop file exists."""

    def _build_engine(self) -> None:
        # LoRA adapters are initialised here, and should follow the recipe's seed.
        torch.manual_seed(self.config.trainer.seed)
        super()._build_engine()
        self._watch_for_stop()

    def _watch_for_stop(self) -> None:
        train_batch, pace = self.training_client.train_batch, Pace()

        def train_batch_then_look(data: Any) -> Any:
            output = pace.noted(train_batch, data)
            if _any_rank(stop_requested()):
                # fit() takes any step at or beyond the total for the last one: it saves and returns. A pause does not
                # wait for a validation.
                self.total_training_steps = 0
                self.val_dataloader, self.test_freq = None, -1
            return output

        self.training_client.train_batch = train_batch_then_look

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        self.train_sampler.seed = self.config.trainer.seed


class Pace:
    """The time of a step and the tokens of a second and device, which verl logs for reinforcement learning only."""

    def __init__(self) -> None:
        self._ended_at: float | None = None

    def noted(self, train_batch: Any, data: Any) -> Any:
        """Train a batch, and add both to its metrics, by the names that verl has for them."""
        began_at = time.perf_counter()
        output = train_batch(data=data)
        ended_at = time.perf_counter()
        seconds, self._ended_at = ended_at - (self._ended_at or began_at), ended_at
        metrics: dict[str, Any] | None = None if output is None else tensordict_utils.get(output, "metrics")
        if metrics is not None:
            tokens = sum(tensordict_utils.get(data, "global_token_num"))
            metrics["perf/time_per_step"] = seconds
            metrics["perf/throughput"] = tokens / seconds / dist.get_world_size()
        return output


def _any_rank(flag: bool) -> bool:
    """Whether any rank says so; the ranks see the file at different moments and must leave at the same step."""
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def _stand_alone() -> None:
    """Fill in what torchrun would have set, for a single process."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one_process = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(one_process, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def train(config: DictConfig, trainer: type[StoppableSFTTrainer]) -> None:
    """Train as `config` says, in this process or as one rank of torchrun's."""
    auto_set_device(config)
    # The trainer has no other hook for it.
    sft_trainer.CheckpointHandler = BoundaryCheckpointHandler  # pyright: ignore[reportPrivateImportUsage]
    _stand_alone()
    initialize_global_process_group()
    trainer(config=config).fit()
    destroy_global_process_group()


@hydra.main(config_path="pkg://verl.trainer.config", config_name="sft_trainer_engine", version_base=None)
def main(config: DictConfig) -> None:
    """Train as `config` says."""
    train(config, StoppableSFTTrainer)


if __name__ == "__main__":
    run_traced(main)
