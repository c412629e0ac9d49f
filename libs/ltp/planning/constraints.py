"""What verl 0.9.1 demands of a configuration, as thirty named checks: most it would make hours in, some never.

Source: the table of verl.md §2.2, whose numbers the checks keep. A check looks at `Facts`, which can be made from a plan or read
back from a composed configuration, so what the search believes and what verl is given are held to the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import ceil

from ltp.core.algorithms import ESTIMATORS, ESTIMATORS_V0, LOSS_MODES
from ltp.planning.facts import Facts

REWARD_MANAGERS = frozenset({"naive", "dapo", "gdpo", "remote", "rate_limited"})
TRAINER_MODES = frozenset({"sync", "colocate_async", "separate_async"})
ROLLOUTS = frozenset({"vllm", "sglang", "trtllm", "hf_cpu"})
_LORA_MOST = 512
# Ray slots of one node: three for each worker, eight storage units, their controller and the task runner.
_SLOTS_EACH, _SLOTS_HELPERS = 3, 10


@dataclass(frozen=True)
class Violation:
    """A rule that a configuration breaks: its number in verl.md §2.2, its name, and by how much."""

    number: int
    name: str
    message: str

    def __str__(self) -> str:
        return f"rule {self.number} ({self.name}): {self.message}"


Check = Callable[[Facts], str | None]
_RULES: list[tuple[int, str, Check]] = []


def _rule(number: int, name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        _RULES.append((number, name, check))
        return check

    return register


def rules() -> list[tuple[int, str]]:
    """Number and name of every rule."""
    return [(number, name) for number, name, _ in _RULES]


def violations(facts: Facts, *, but: Collection[int] = ()) -> list[Violation]:
    """Every rule that `facts` break, except those numbered in `but`."""
    found: list[Violation] = []
    for number, name, check in _RULES:
        message = check(facts)
        if message is not None and number not in but:
            found.append(Violation(number, name, message))
    return found


def _remainder(what: str, count: int, by: str, divisor: int) -> str | None:
    rest = count % divisor if divisor > 0 else 0
    if not rest:
        return None
    return (
        f"{count} {what} do not divide by {divisor} {by}: {rest} left over, {divisor - rest} short of the next multiple"
    )


@_rule(1, "sequences over devices")
def _sequences_over_devices(f: Facts) -> str | None:
    return _remainder("sequences a step", f.sequences, "devices", f.devices) if f.is_rl and not f.dynamic else None


@_rule(2, "mini batch within batch")
def _mini_batch_within_batch(f: Facts) -> str | None:
    over = f.mini_batch - f.batch
    return f"a mini batch of {f.mini_batch} exceeds the batch of {f.batch} by {over}" if f.is_rl and over > 0 else None


@_rule(3, "one kind of micro batch")
def _one_micro_batch(f: Facts) -> str | None:
    if f.dynamic:
        return None
    if f.micro_batch is not None and f.legacy_micro_batch is not None:
        return "a micro batch is given both in all and per device"
    if f.micro_batch is None:
        return "no micro batch per device is given, and batches are not dynamic"
    missing = f.is_rl and not f.log_prob_dynamic and f.log_prob_micro_batch is None
    return "no micro batch is given for the log-probabilities" if missing else None


@_rule(4, "mini batch over replicas")
def _mini_batch_over_replicas(f: Facts) -> str | None:
    return _remainder("sequences an update", f.mini_sequences, "replicas", f.data_parallel) if f.is_rl else None


@_rule(5, "micro batch divides")
def _micro_batch_divides(f: Facts) -> str | None:
    if f.dynamic or not f.is_rl or not f.micro_batch:
        return None
    return _remainder("sequences of a replica", f.mini_sequences // f.data_parallel, "in a micro batch", f.micro_batch)


@_rule(6, "log-prob micro batch divides")
def _log_prob_micro_batch_divides(f: Facts) -> str | None:
    if f.log_prob_dynamic or not f.is_rl or not f.log_prob_micro_batch:
        return None
    share = f.sequences // f.data_parallel
    return _remainder("sequences of a replica", share, "in a log-prob micro batch", f.log_prob_micro_batch)


@_rule(7, "mini batches fill the batch")
def _mini_batches_fill(f: Facts) -> str | None:
    return _remainder("prompts", f.batch, "of a mini batch", f.mini_batch) if f.is_rl and f.mini_batch else None


@_rule(8, "dynamic everywhere or nowhere")
def _dynamic_agrees(f: Facts) -> str | None:
    differs = f.is_rl and f.dynamic != f.log_prob_dynamic
    return (
        f"dynamic batches are {f.dynamic} for the actor and {f.log_prob_dynamic} for its log-probs" if differs else None
    )


@_rule(9, "token budget holds the longest sequence")
def _token_budget(f: Facts) -> str | None:
    longest = f.max_length
    budgets = [("actor", f.token_budget, f.sequence_parallel)] if f.dynamic else []
    if f.is_rl and f.log_prob_dynamic:
        budgets.append(("log-prob", f.log_prob_token_budget, f.sequence_parallel))
        if f.uses_reference:
            parallel = f.sequence_parallel if f.reference_sequence_parallel is None else f.reference_sequence_parallel
            budgets.append(("reference", f.log_prob_token_budget, parallel))
    if f.has_critic:
        budgets.append(("critic", f.critic_token_budget, f.sequence_parallel))
    for name, budget, parallel in budgets:
        least = ceil(longest / parallel)
        if budget is not None and budget < least:
            return f"the {name}'s {budget} tokens a device are {least - budget} fewer than the longest sequence needs"
    return None


@_rule(10, "rollout replicas fill the devices")
def _rollout_replicas(f: Facts) -> str | None:
    if not f.is_rl:
        return None
    if f.rollout_pipeline_parallel != 1:
        return f"{f.rollout} runs no pipeline of {f.rollout_pipeline_parallel} stages"
    return _remainder("devices", f.devices, "of a rollout replica", f.rollout_tensor_parallel * f.rollout_data_parallel)


@_rule(11, "heads over rollout tensor parallel")
def _rollout_heads(f: Facts) -> str | None:
    return _remainder("attention heads", f.heads, "rollout ranks", f.rollout_tensor_parallel) if f.is_rl else None


@_rule(12, "heads over sequence parallel")
def _sequence_parallel_heads(f: Facts) -> str | None:
    parallel = f.sequence_parallel
    if parallel == 1:
        return None
    if not f.remove_padding:
        return f"sequence parallel {parallel} needs packed sequences (use_remove_padding)"
    if f.kv_heads % parallel and parallel % f.kv_heads:
        return f"{f.kv_heads} key heads and sequence parallel {parallel} do not divide each other"
    return _remainder("attention heads", f.heads, "sequence ranks", parallel)


@_rule(13, "meshes fill the devices")
def _meshes(f: Facts) -> str | None:
    shards = f.devices if f.shards < 0 else f.shards
    if shards == 0:
        return "a shard group of no devices"
    return _remainder("devices", f.devices, "sequence ranks", f.sequence_parallel) or _remainder(
        "devices", f.devices, "of a shard group", shards
    )


@_rule(14, "expert parallel")
def _expert_parallel(f: Facts) -> str | None:
    allowed = {1, f.rollout_tensor_parallel * f.rollout_data_parallel}
    if not f.is_rl or f.rollout_expert_parallel in allowed:
        return None
    return f"rollout expert parallel {f.rollout_expert_parallel} is neither 1 nor {max(allowed)}"


@_rule(15, "LoRA in the rollout")
def _lora(f: Facts) -> str | None:
    if not f.lora_rank:
        return None
    if f.lora_rank > _LORA_MOST:
        return f"rank {f.lora_rank} is {f.lora_rank - _LORA_MOST} more than vLLM's {_LORA_MOST}"
    wrong = f.is_rl and f.rollout == "vllm" and f.rollout_load_format != "safetensors"
    return f"adapters need load format safetensors, not {f.rollout_load_format}" if wrong else None


@_rule(16, "positions hold the sequence")
def _positions(f: Facts) -> str | None:
    longest = max(f.max_length, f.prompt_length + f.response_length, f.rollout_max_length or 0)
    if longest > f.max_positions:
        return f"{longest} tokens are {longest - f.max_positions} more than the model's {f.max_positions} positions"
    if f.is_rl and f.rollout_max_length is not None and f.rollout_max_length < f.prompt_length + f.response_length:
        short = f.prompt_length + f.response_length - f.rollout_max_length
        return f"the rollout's {f.rollout_max_length} tokens are {short} fewer than prompt and response"
    return None


@_rule(17, "sampling has a temperature")
def _temperature(f: Facts) -> str | None:
    wrong = f.is_rl and f.validation_samples and f.temperature <= 0
    return f"validation samples at temperature {f.temperature:g}" if wrong else None


@_rule(18, "rollout is named and async")
def _rollout_named(f: Facts) -> str | None:
    if not f.is_rl:
        return None
    if f.rollout not in ROLLOUTS:
        return f"there is no rollout {f.rollout!r}"
    return None if f.rollout_mode == "async" else f"rollout mode {f.rollout_mode!r} is gone; there is async alone"


@_rule(19, "separate rollout needs its own devices")
def _separate(f: Facts) -> str | None:
    if not f.is_rl or f.trainer_mode != "separate_async":
        return None
    wanted = f.parameter_sync_step * f.mini_batch
    return f"a batch of {f.batch} is not {wanted}, a mini batch for each step of a sync" if f.batch != wanted else None


@_rule(20, "syncs fill the batch")
def _syncs(f: Facts) -> str | None:
    return _remainder("prompts", f.batch, "steps of a sync", f.parameter_sync_step) if f.is_rl else None


@_rule(21, "the dataset fills a batch")
def _rows(f: Facts) -> str | None:
    short = f.batch - f.rows
    return f"{f.rows} rows are {short} fewer than one batch of {f.batch}" if short > 0 else None


@_rule(22, "Ray has devices and slots for the workers")
def _slots_for_workers(f: Facts) -> str | None:
    each = f.devices // max(1, f.nodes)
    if f.host_devices is not None and each > f.host_devices:
        return f"{each} devices a host are {each - f.host_devices} more than it has"
    wanted = _SLOTS_EACH * each
    short = f.is_rl and f.slots is not None and f.slots < wanted
    return f"{f.slots} Ray slots are {wanted - (f.slots or 0)} fewer than {each} workers take" if short else None


@_rule(23, "Ray has slots for the helpers")
def _slots_for_helpers(f: Facts) -> str | None:
    wanted = _SLOTS_EACH * (f.devices // max(1, f.nodes)) + _SLOTS_HELPERS
    short = f.is_rl and f.slots is not None and f.slots < wanted
    return f"{f.slots} Ray slots are {wanted - (f.slots or 0)} fewer than workers and helpers take" if short else None


@_rule(24, "SFT batch over replicas")
def _sft_batch(f: Facts) -> str | None:
    if f.is_rl:
        return None
    uneven = _remainder("sequences a step", f.batch, "replicas", f.data_parallel)
    if uneven is None and not f.dynamic and f.micro_batch:
        uneven = _remainder("sequences of a replica", f.batch // f.data_parallel, "in a micro batch", f.micro_batch)
    if uneven is None and f.validation_rows is not None and f.validation_rows < f.batch:
        return (
            f"{f.validation_rows} validation rows are {f.batch - f.validation_rows} fewer than a batch: the loss is NaN"
        )
    return uneven


@_rule(25, "frequencies are not zero")
def _frequencies(f: Facts) -> str | None:
    return "saving or validating every 0 steps divides by zero" if 0 in (f.save_every, f.validate_every) else None


@_rule(26, "filtering has a metric")
def _filter(f: Facts) -> str | None:
    return "groups are filtered by no metric" if f.is_rl and f.filter_groups and not f.filter_metric else None


@_rule(27, "Megatron")
def _megatron(f: Facts) -> str | None:
    if f.strategy != "megatron":
        return None
    return None if f.use_mbridge else "Megatron needs use_mbridge"


@_rule(28, "agent workers share the batch (verl 0.7)")
def _agent_workers(f: Facts) -> str | None:
    if not f.is_rl or not f.verl.startswith("0.7"):
        return None
    return _remainder("sequences a step", f.sequences, "agent workers", f.agent_workers)


@_rule(29, "names exist")
def _names(f: Facts) -> str | None:
    if not f.is_rl:
        return None
    if f.estimator in ESTIMATORS_V0:
        return f"estimator {f.estimator} does not work in this trainer"
    for what, name, known in (
        ("estimator", f.estimator, ESTIMATORS), ("policy loss", f.loss_mode, LOSS_MODES),
        ("reward manager", f.reward_manager, REWARD_MANAGERS), ("trainer mode", f.trainer_mode, TRAINER_MODES),
    ):  # fmt: skip
        if name is not None and name not in known:
            return f"there is no {what} {name!r}"
    return None


@_rule(30, "resume path")
def _resume(f: Facts) -> str | None:
    if f.resume_path is None:
        return None
    step = f.resume_path.rpartition("/")[2]
    good = step.startswith("global_step_") and step.removeprefix("global_step_").isdigit()
    return None if good else f"{f.resume_path!r} does not end in global_step_N"
