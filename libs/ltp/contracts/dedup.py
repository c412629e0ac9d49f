"""Duplicates and leaks: what was asked, what was found, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field, model_validator

from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.values import Name, Problem, Sha256

DedupMethod = Literal["exact", "near", "semantic", "combined"]
TextPart = Literal["conversation", "prompt", "response"]
CheckState = Literal["queued", "running", "completed", "failed"]


class Thresholds(Value):
    """From which similarity on two rows are the same; each method reads its own, `combined` wants both.

    0.85 and 0.6 together found 97 % of planted duplicates and 1.4 % of hard negatives, better than either alone.
    """

    cosine: float = Field(default=0.85, gt=0, le=1, description="Cosine of the rows' vectors.")
    jaccard: float = Field(default=0.6, gt=0, le=1, description="Jaccard index of their runs of 5 characters.")


class VersionRef(Value):
    """A frozen version, by the first digits of its hash. Without `version`, the newest of that name."""

    name: Name
    version: str | None = Field(default=None, pattern=r"^[0-9a-f]{4,64}$")
    project: Name | None = Field(default=None, description="Whose, where several projects have the name.")


class DedupAsk(Value):
    """Look for duplicates in a version, and against others, whose rows count as earlier and are never removed."""

    method: DedupMethod = "combined"
    thresholds: Thresholds = Thresholds()
    part: TextPart = "conversation"
    model: str | None = Field(default=None, max_length=500, description="Embedding model; none means the default.")
    against: list[VersionRef] = Field(default_factory=list[VersionRef], max_length=20)

    @model_validator(mode="after")
    def _near_is_measured(self) -> DedupAsk:
        if self.method == "near" and self.thresholds.jaccard < 0.6:
            raise ValueError(
                "method near finds pairs from a Jaccard index of 0.6 on; give 0.6 or more, or use combined"
            )
        return self


class DedupRequested(Event, subject="ltp.dedup.v1.requested", speaker="gateway"):
    """Somebody asked which rows of a version repeat others."""

    dedup_id: UUID
    name: Name
    version: Sha256
    ask: DedupAsk
    # `ask.against` with every version spelt out.
    against: list[VersionRef]


class DedupCompleted(Event, subject="ltp.dedup.v1.completed", speaker="dataset"):
    """The duplicates of a version are known; nothing was removed yet."""

    dedup_id: UUID
    name: Name
    version: Sha256
    rows: int
    removals: int


class DedupFailed(Event, subject="ltp.dedup.v1.failed", speaker="dataset"):
    """The duplicates could not be found; `problem` says why."""

    dedup_id: UUID
    problem: Problem


class DedupApplyRequested(Event, subject="ltp.dedup.v1.apply-requested", speaker="gateway"):
    """Somebody asked for a new version without the duplicates found at these thresholds."""

    dedup_id: UUID
    # Of the version to be made; follows from the rest, so that asking twice makes one.
    dataset_id: UUID
    thresholds: Thresholds
    name: Name
    project: Name = "default"


class DedupApplied(Event, subject="ltp.dedup.v1.applied", speaker="dataset"):
    """A new version exists without the duplicates."""

    dedup_id: UUID
    name: Name
    version: Sha256
    rows: int
    removed: int


class LeakAsk(Value):
    """Look for rows of evaluation sets in a training version: shared runs of words, and near vectors."""

    words: int = Field(default=8, ge=1, le=50, description="Words in a run.")
    overlap: float = Field(default=0.5, gt=0, le=1, description="Share of an evaluation row's runs in a training row.")
    cosine: float = Field(default=0.92, gt=0, le=1)
    semantic: bool | None = Field(
        default=None, description="Compare vectors: true makes them, null uses those there are, false leaves it."
    )
    part: TextPart = "prompt"
    model: str | None = Field(default=None, max_length=500)
    split: str | None = Field(default="train", max_length=100, description="Split of the training version; null: all.")
    against: list[VersionRef] = Field(default_factory=list[VersionRef], max_length=20)
    # Splits of the training version itself that are held out, so rows of them must not be in `split` either.
    own_splits: list[str] = Field(default=["test"], max_length=20)


class LeakCheckRequested(Event, subject="ltp.leakcheck.v1.requested", speaker="gateway"):
    """Somebody asked whether a training version holds rows of evaluation sets."""

    check_id: UUID
    name: Name
    version: Sha256
    ask: LeakAsk
    against: list[VersionRef]
    project: Name | None = None


class LeakCheckCompleted(Event, subject="ltp.leakcheck.v1.completed", speaker="dataset"):
    """It is known which evaluation rows a training version holds."""

    check_id: UUID
    name: Name
    version: Sha256
    rows: int
    leaks: int


class LeakCheckFailed(Event, subject="ltp.leakcheck.v1.failed", speaker="dataset"):
    """The check could not be done; `problem` says why."""

    check_id: UUID
    problem: Problem


class DedupRun(Value):
    """A search for duplicates. Counts are at the thresholds asked for, or those given with the question."""

    dedup_id: UUID
    name: Name
    version: Sha256
    against: list[VersionRef]
    method: DedupMethod
    part: TextPart
    model: str | None
    thresholds: Thresholds
    # Thresholds may be moved down to these without computing again; equal to `thresholds` where clusters were too large.
    floor: Thresholds | None = None
    state: CheckState
    progress: float = 0.0
    rows: int | None = None
    removals: int | None = None
    applied: list[VersionRef] = Field(default_factory=list[VersionRef])
    problem: Problem | None = None
    created_at: datetime
    ended_at: datetime | None = None


class DedupQuestion(Value):
    """One search for duplicates, read at other thresholds where given."""

    dedup_id: UUID
    cosine: float | None = Field(default=None, gt=0, le=1)
    jaccard: float | None = Field(default=None, gt=0, le=1)
    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=50, ge=1, le=200)


class DedupsRequest(PageQuery):
    """A page of the searches for duplicates in a name."""

    name: Name


class DedupList(Value):
    """A page of searches for duplicates. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    dedups: list[DedupRun]
    next_cursor: str | None = None


class Removal(Value):
    """A row that goes, the row that stays for it, and by what they were found the same."""

    row_id: str
    split: str
    text: str
    twin_row_id: str
    twin_name: Name
    twin_version: Sha256
    twin_split: str
    twin_text: str
    method: Literal["exact", "near", "semantic", "combined"]
    cosine: float | None = None
    jaccard: float | None = None


class RemovalPage(Value):
    """Removals in the order of the rows; `total` at these thresholds."""

    dedup: DedupRun
    total: int
    offset: int
    removals: list[Removal]


class Leak(Value):
    """An evaluation row and the training row that gives it away."""

    evaluation_name: Name
    evaluation_version: Sha256
    evaluation_split: str
    evaluation_row_id: str
    evaluation_text: str
    training_row_id: str
    training_text: str
    method: Literal["exact", "words", "semantic"]
    overlap: float | None = None
    cosine: float | None = None


class LeakCheck(Value):
    """A check of a training version against evaluation sets, with its first leaks."""

    check_id: UUID
    name: Name
    version: Sha256
    against: list[VersionRef]
    ask: LeakAsk
    state: CheckState
    rows: int | None = None
    evaluation_rows: int | None = None
    compared_vectors: bool | None = None
    leaks: int | None = None
    found: list[Leak] = Field(default_factory=list[Leak])
    problem: Problem | None = None
    created_at: datetime
    ended_at: datetime | None = None


class LeaksRequest(PageQuery):
    """A page of the checks of a version, or one of them with its leaks."""

    name: Name | None = None
    version: Sha256 | None = None
    check_id: UUID | None = None


class LeakChecks(Value):
    """A page of checks. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    checks: list[LeakCheck]
    next_cursor: str | None = None


class LeakWarnings(Value):
    """What a submitter should know about leaks of a version: sentences, empty when a check found nothing."""

    checked: bool
    warnings: list[str]
