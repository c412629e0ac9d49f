"""Direct preference optimization on verl's own SFT trainer and engine: `python -m ltp_verl.dpo OVERRIDE...`.

verl has no DPO. Ours takes its trainer loop, data loader, FSDP engine, optimizer and checkpoints as they are, and adds three
things: rows that are pairs, a loss over a pair, and the log-probabilities of a frozen reference. With adapters the
reference is the base model with the adapters switched off; else it is a second, forward-only engine.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import hydra
from omegaconf import DictConfig
from verl.trainer import sft_trainer
from verl.utils import tensordict_utils
from verl.utils.dataset.dataset_utils import SFTTensorCollator
from verl.workers.config.engine import TrainingWorkerConfig
from verl.workers.engine_workers import TrainingWorker

from ltp_verl.dpo_loss import Rule, averaged, pair_loss
from ltp_verl.sft import StoppableSFTTrainer, train
from ltp_verl.tracing import run_traced


class PairCollator(SFTTensorCollator):
    """Lays a batch of pairs out as twice as many sequences: chosen, rejected, chosen, rejected, and so on."""

    def __call__(self, batch: list[Any]) -> dict[str, Any]:
        return super().__call__([sequence for pair in batch for sequence in pair])


class PairClient:
    """The training worker of verl, handed each batch with the log-probabilities of the reference in it."""

    def __init__(self, policy: Any, reference: Any | None) -> None:
        self._policy = policy
        self._reference = reference

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def train_batch(self, data: Any) -> Any:
        """One optimizer step."""
        return averaged(self._policy.train_batch(data=self._with_reference(data)))

    def infer_batch(self, data: Any) -> Any:
        """The loss over held-out pairs."""
        return averaged(self._policy.infer_batch(self._with_reference(data)))

    def _with_reference(self, data: Any) -> Any:
        # verl's own means of keeping neighbours in one micro batch.
        tensordict_utils.assign_non_tensor(data, force_group_size=2)
        asked = data.clone(recurse=False)
        tensordict_utils.assign_non_tensor(asked, compute_loss=False)
        if self._reference is None:
            tensordict_utils.assign_non_tensor(asked, no_lora_adapter=True)
        answer = (self._reference or self._policy).infer_batch(asked)
        data["reference_log_probs"] = tensordict_utils.get(answer, "log_probs")
        return data


class StoppableDPOTrainer(StoppableSFTTrainer):
    """The SFT trainer over pairs."""

    def _build_engine(self) -> None:
        super()._build_engine()
        wanted = self.config.dpo
        rule = Rule(wanted.beta, wanted.loss, wanted.label_smoothing)
        self.training_client.set_loss_fn(partial(pair_loss, rule=rule, pairs=self.config.data.train_batch_size))
        adapted = self.model_config.lora_rank > 0
        self.training_client = PairClient(self.training_client, None if adapted else self._frozen())
        self._watch_for_stop()

    def _watch_for_stop(self) -> None:
        """After the client is in place, so that the vote is over whole steps."""
        if isinstance(self.training_client, PairClient):
            super()._watch_for_stop()

    def _frozen(self) -> TrainingWorker:
        """The model as it was at first, in a second engine that never learns."""
        engine: Any = deepcopy(self.engine_config)
        object.__setattr__(engine, "forward_only", True)
        reference = TrainingWorker(
            TrainingWorkerConfig(
                model_type="language_model",
                model_config=deepcopy(self.model_config),
                engine_config=engine,
                optimizer_config=self.optimizer_config,
                checkpoint_config=self.checkpoint_config,
                profiler_config=self.profiler_config,
            )
        )
        reference.reset()
        return reference

    def _build_dataloader(self) -> None:
        # The trainer has no other hook for how rows become a batch.
        single: Any = sft_trainer.SFTTensorCollator  # pyright: ignore[reportPrivateImportUsage]
        sft_trainer.SFTTensorCollator = PairCollator  # pyright: ignore[reportPrivateImportUsage]
        try:
            super()._build_dataloader()
        finally:
            sft_trainer.SFTTensorCollator = single  # pyright: ignore[reportPrivateImportUsage]


@hydra.main(config_path="pkg://verl.trainer.config", config_name="sft_trainer_engine", version_base=None)
def main(config: DictConfig) -> None:
    """Train as `config` says."""
    train(config, StoppableDPOTrainer)


if __name__ == "__main__":
    run_traced(main)
