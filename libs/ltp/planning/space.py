"""All layouts of a recipe on one pool, and the predictions about them, each made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ltp.contracts.recipe import Recipe
from ltp.core.calibration import Interval
from ltp.core.device_memory import Estimate, Rollout, estimate
from ltp.core.memory import Offload, states
from ltp.core.model_config import Architecture
from ltp.planning.candidates import Layout, may_stay_gathered, per_device, responses_of, step_of
from ltp.planning.models_beside import models_beside
from ltp.planning.pools import Pool
from ltp.planning.timing import rollout_seconds, training_seconds

# Interval of the measured over the predicted memory, by device model and algorithm, from runs that ended.
Margins = Mapping[str, Interval]
# From so many runs on, the interval may also be narrower than the model's own margin.
_ENOUGH_PAIRS = 20


@dataclass
class Space:
    """All layouts of a recipe on one pool."""

    recipe: Recipe
    arch: Architecture
    pool: Pool
    margins: Margins = field(default_factory=dict[str, Interval])
    _known: dict[tuple[Layout, bool], Estimate] = field(default_factory=dict[tuple[Layout, bool], Estimate])
    _held: dict[tuple[int, Offload], int] = field(default_factory=dict[tuple[int, Offload], int])
    _trained: dict[Layout, float | None] = field(default_factory=dict[Layout, "float | None"])
    _generated: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    def shapes(self) -> Iterator[Layout]:
        """Every way to spread the job over the devices, those that break a rule of verl's among them."""
        devices = self.pool.devices
        spread = _divisors(devices) if self.pool.kind == "gpu" else [devices]
        parallel = _divisors(devices) if self.pool.flash_attention else [1]
        rollouts = _divisors(devices) if self.recipe.reinforcement and self.pool.kind == "gpu" else [0]
        for shards in reversed(spread):
            for sequence_parallel in parallel:
                for wide in rollouts:
                    yield Layout(
                        1, shards=shards, sequence_parallel=sequence_parallel, rollout_tensor_parallel=wide or 0
                    )

    def batches(self, shape: Layout) -> list[Layout]:
        """The shape with every size of micro batch, ascending."""
        return [replace(shape, micro_batch=micro, token_budget=budget) for micro, budget in self._batches(shape)]

    def means(self) -> list[dict[str, Any]]:
        """Every choice against a shortage of memory: checkpointing, and where allowed loss head and offload."""
        if self.pool.kind == "cpu":
            return [{"checkpointing": checkpointing} for checkpointing in (False, True)]
        # Between phases only the optimizer waits on the host; for SFT, which has one phase, that buys nothing.
        offloads = [Offload.NONE, Offload.ALL]
        offloads[1:1] = [Offload.OPTIMIZER] if self.recipe.reinforcement else []
        found = [
            {"offload": offload, "fused_head": fused, "checkpointing": checkpointing}
            for offload in offloads
            for fused in (False, True)
            for checkpointing in (False, True)
        ]
        if may_stay_gathered(self.recipe, self.pool):
            found += [{**means, "reshards": False} for means in found if means["offload"] is Offload.NONE]
        return found

    def _batches(self, shape: Layout) -> list[tuple[int, int | None]]:
        share = per_device(self.recipe, self.pool.devices, shape.sequence_parallel)
        asked = self.recipe.resources.micro_batch_size
        if asked:
            return [(asked, None)]
        powers = [1 << n for n in range(share.bit_length())]
        if self.pool.flash_attention:
            each = -(-self.recipe.training.max_length // shape.sequence_parallel)
            return [(count, count * each) for count in powers]
        return [(count, None) for count in powers if share % count == 0]

    def held(self, layout: Layout) -> int:
        """Bytes of weights and optimizer that stay on the device while responses are generated."""
        key = (layout.shards, layout.offload)
        if key not in self._held:
            kept = states(self.arch, step_of(self.recipe, self.pool, replace(layout, offload=Offload.NONE)))
            on_host = {Offload.NONE: 0, Offload.OPTIMIZER: kept.optimizer, Offload.ALL: kept.weights + kept.optimizer}
            beside = models_beside(self.recipe, self.arch, self.pool, layout)
            self._held[key] = kept.weights + kept.optimizer - on_host[layout.offload] + sum(beside.values())
        return self._held[key]

    def predict(self, layout: Layout, rollout_share: float | None, *, cuda_graphs: bool = False) -> Estimate:
        """Memory of a layout. How wide the generator is changes nothing unless its phase is the peak."""
        plain = (replace(layout, rollout_tensor_parallel=0), cuda_graphs)
        found = self._known.get(plain)
        if found is None:
            found = self._known[plain] = self._estimate(layout, rollout_share, cuda_graphs)
        if found.stage != "rollout":
            return found
        return self._estimate(layout, rollout_share, cuda_graphs)

    def _estimate(self, layout: Layout, rollout_share: float | None, cuda_graphs: bool) -> Estimate:
        sequences = responses_of(self.recipe, self.pool, layout)
        rollout = None
        if sequences:
            wide = max(1, layout.rollout_tensor_parallel)
            rollout = Rollout(
                sequences, self.recipe.training.max_length,
                memory_share=rollout_share, device_bytes=self.pool.memory_bytes, tensor_parallel=wide,
                cuda_graphs=cuda_graphs,
            )  # fmt: skip
        found = estimate(self.arch, step_of(self.recipe, self.pool, layout), rollout)
        more = models_beside(self.recipe, self.arch, self.pool, layout)
        if more:
            upper = found.upper_bytes + int(sum(more.values()) * (1 + found.margin))
            found = replace(found, components={**found.components, **more}, upper_bytes=upper)
        known = self.margins.get(f"{self.pool.model}:{self.recipe.algorithm}")
        if known is None or not known.pairs:
            return found
        outside = found.components.get("context", 0) + found.fragmentation
        upper = int((found.bytes - outside + found.fragmentation) * known.upper) + outside
        enough = known.pairs >= _ENOUGH_PAIRS
        return replace(found, upper_bytes=upper if enough else max(upper, found.upper_bytes))

    def seconds(self, layout: Layout, concurrent: int) -> float | None:
        """Of one optimizer step with everything that belongs to it; None where the device's speed is unknown."""
        plain = replace(layout, rollout_tensor_parallel=0)
        if plain not in self._trained:
            self._trained[plain] = training_seconds(self.recipe, self.arch, self.pool, layout)
        trained, wide = self._trained[plain], layout.rollout_tensor_parallel
        if trained is None or not concurrent:
            return trained
        if (wide, concurrent) not in self._generated:
            spent = rollout_seconds(self.recipe, self.arch, self.pool, wide, concurrent)
            self._generated[wide, concurrent] = spent
        return trained + self._generated[wide, concurrent]


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]
