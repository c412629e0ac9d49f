"""Values that several events share: problems, devices, plans, samples of a score."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ltp.contracts.event import Value
from ltp.core.errors import ErrorCode, LtpError

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Ratio = Annotated[float, Field(ge=0, le=1)]


# Events stay far below the megabyte that NATS carries, whatever a log or a row put into a message.
_LONGEST = 4000


class Problem(Value):
    """An error as it travels: a stable code, what is wrong, what to do."""

    # A plain string, so that an old listener survives a code it does not know yet.
    code: str
    message: str
    hint: str = ""
    # Lines of a log that prove it, as they stand there.
    evidence: list[str] = Field(default_factory=list[str])

    @classmethod
    def of(cls, error: LtpError) -> Problem:
        """The wire form of an error."""
        return cls(code=error.code, message=error.message[:_LONGEST], hint=error.hint[:_LONGEST])

    def error(self) -> LtpError:
        """The error again, on the other side of the wire."""
        known = self.code in ErrorCode.__members__.values()
        return LtpError(ErrorCode(self.code) if known else ErrorCode.INTERNAL, self.message, self.hint)


class Device(Value):
    """One accelerator of a host, or the host's processors taken as one device of kind `cpu`."""

    index: int = Field(ge=0)
    kind: Literal["cpu", "gpu"]
    model: str
    memory_bytes: int = Field(gt=0)
    # Free when its host was last asked; whoever asks must know what of the rest is his own.
    free_bytes: int | None = Field(default=None, ge=0)


class HostShare(Value):
    """Devices of one host."""

    host_id: str
    device_indexes: list[int]


class Placement(Value):
    """Where leased work runs: devices of one host, or of several when the work spans them (`others`, the same number each)."""

    host_id: str
    device_kind: Literal["cpu", "gpu"]
    device_indexes: list[int]
    others: list[HostShare] = Field(default_factory=list[HostShare])
    # The lease's fencing token: it only grows, so that whoever holds a smaller one is stale.
    fence: int | None = None

    def shares(self) -> list[HostShare]:
        """What is taken of each host, the first one included."""
        return [HostShare(host_id=self.host_id, device_indexes=self.device_indexes), *self.others]


class Saying(Value):
    """A sentence by its code and what is filled in, for who says it in another language than English."""

    code: str
    values: dict[str, str] = Field(default_factory=dict[str, str])


class PlanRejection(Value):
    """A candidate plan that lost, and why; both in English and as what they say."""

    candidate: str
    reason: str
    candidate_said: list[Saying] = Field(default_factory=list[Saying])
    reason_said: Saying | None = None


class PlanStage(Value):
    """What one stage of a job needs of a device; `binding` is its largest component."""

    stage: str
    memory_bytes: int
    binding: str
    binding_bytes: int
    # Component name -> bytes of it in this stage.
    components: dict[str, int] = Field(default_factory=dict[str, int])


class Plan(Value):
    """A configuration that fits, what it is predicted to cost, and why the others lost."""

    device_kind: Literal["cpu", "gpu"]
    devices: int = Field(gt=0)
    micro_batch_size: int = Field(gt=0)
    gradient_checkpointing: bool
    parameters: int = Field(gt=0)
    # Predicted peak per device, with its upper bound, and the device it must fit.
    memory_bytes: int = Field(gt=0)
    memory_upper_bytes: int = Field(gt=0)
    device_memory_bytes: int = Field(gt=0)
    # Component name -> bytes per device at the peak.
    memory_components: dict[str, int]
    step_seconds: float | None = None
    rejected: list[PlanRejection] = Field(default_factory=list[PlanRejection])
    # Model of device the figures are for; None where the driver's name is in no table.
    device_model: str | None = None
    # Devices that share one copy of the states (verl's fsdp_size), and each sequence's tokens (Ulysses).
    shards: int | None = None
    sequence_parallel: int = 1
    # Packed batches of at most so many tokens on a device; None counts sequences.
    token_budget: int | None = None
    # Micro batches of one optimizer step on a device.
    accumulation: int = 1
    offload: Literal["none", "optimizer", "all"] = "none"
    fused_head: bool = False
    # False keeps each layer's gathered weights from its forward to its backward.
    reshards: bool = True
    rollout_tensor_parallel: int = 1
    # Share of the device that the generator may fill; None leaves it to the runner.
    rollout_memory_share: float | None = None
    # The generator captures its decode steps as CUDA graphs, whose memory is part of the plan.
    cuda_graphs: bool = False
    # verl's engine: FSDP 1 (`fsdp`) or FSDP 2.
    strategy: Literal["fsdp", "fsdp2"] = "fsdp2"
    # Of a step with every sequence at its full length, and of the whole job.
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    cost_dollars: float | None = None
    # Host memory at the job's largest, and what one checkpoint takes on the disk.
    host_memory_bytes: int | None = None
    checkpoint_bytes: int | None = None
    stages: list[PlanStage] = Field(default_factory=list[PlanStage])
