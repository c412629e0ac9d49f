"""Memory of the models that an algorithm keeps beside the one it trains: a critic, and a frozen reference."""

from __future__ import annotations

from dataclasses import replace

from ltp.contracts.recipe import Recipe
from ltp.core.memory import Offload, states
from ltp.core.model_config import Architecture, parameters
from ltp.planning.candidates import Layout, step_of
from ltp.planning.pools import Pool


def models_beside(recipe: Recipe, arch: Architecture, pool: Pool, layout: Layout) -> dict[str, int]:
    """Bytes per device by component, all resident: a closed form, not calibrated on measurements.

    A critic is trained whole, whatever the actor: its weights, gradients and moments. A reference's weights lie in host
    memory where there is a device (verl.md §3.2), which on a processor is the device's; adapters need none.
    """
    found: dict[str, int] = {}
    if recipe.algorithm == "ppo" and layout.offload is not Offload.ALL:
        whole = states(arch, replace(step_of(recipe, pool, layout), lora_rank=0, offload=Offload.NONE))
        moments = 0 if layout.offload is Offload.OPTIMIZER else whole.optimizer
        found["critic"] = whole.weights + whole.gradients + moments
    if pool.kind == "cpu" and has_reference(recipe):
        found["reference"] = 4 * parameters(arch) // layout.shards
    return found


def has_reference(recipe: Recipe) -> bool:
    """Whether a second, frozen model is loaded; with adapters the reference is the base under them."""
    section = recipe.reinforcement
    distance = section is not None and (section.kl_loss_coefficient > 0 or section.kl_reward_coefficient > 0)
    return (recipe.algorithm == "dpo" or distance) and not recipe.training.lora_rank
