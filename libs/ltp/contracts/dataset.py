"""Datasets: what came in, and the immutable versions that came out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Name, Problem, Ratio, Sha256

DEFAULT_PROJECT = "default"


class ReadOptions(Value):
    """How a source is read, where its user knows better than detection, and whose it is."""

    project: Name = DEFAULT_PROJECT
    # As an entry of LLaMA-Factory's dataset_info.json: format, columns, tags.
    mapping: dict[str, Any] | None = None
    # Which file of an archive, folder or repository; a pattern such as `train/*.jsonl`.
    member: str | None = None
    # Fields that hold personal data: never in logs, events or messages.
    personal: list[str] = Field(default_factory=list)
    keep_days: Annotated[int, Field(gt=0)] | None = None


class DatasetUploaded(Event, subject="ltp.dataset.v1.uploaded", speaker="gateway"):
    """A file arrived whole and waits to be read."""

    dataset_id: UUID
    name: Name
    filename: str
    path: str
    sha256: Sha256
    size_bytes: int
    # Share of the rows that is held out as split `test`, chosen by hash.
    holdout: Ratio
    options: ReadOptions | None = None


class Split(Value):
    """A part of a version: one Parquet file that verl can read as it is."""

    rows: int
    path: str
    # Rows that carry a reference answer, which evaluation and RL need.
    answered: int


class DatasetVersion(Value):
    """An immutable version as others refer to it."""

    name: Name
    version: Sha256
    rows: int
    splits: dict[str, Split]
    # The project that has it, whosever the job is.
    belongs_to: Name | None = None


class DatasetFrozen(Event, subject="ltp.dataset.v1.frozen", speaker="dataset"):
    """An immutable version exists. The same rows with the same split give the same version."""

    dataset_id: UUID
    name: Name
    version: Sha256
    format: str
    rows: int
    # Word-for-word copies of other rows, kept once: they would leak from one split into the other.
    duplicates: int = 0
    splits: dict[str, Split]
    # The versions it was made of, and how; empty for what came from outside.
    parents: list[str] = Field(default_factory=list)
    reason: str = ""
    project: str = DEFAULT_PROJECT
    evidence: str = ""


class DatasetRequested(Event, subject="ltp.dataset.v1.requested", speaker="gateway"):
    """A dataset is wanted from a place the platform reaches by itself: a path on the server, or a hub."""

    dataset_id: UUID
    name: Name
    # An absolute path, `hf://owner/name[@revision][/file]` or `modelscope://...`.
    source: str
    holdout: Ratio
    options: ReadOptions = Field(default_factory=ReadOptions)


class MixPart(Value):
    """A version that goes into a mix, with its weight."""

    name: Name
    version: Sha256
    weight: Annotated[float, Field(gt=0)] = 1.0


class DatasetDerivationRequested(Event, subject="ltp.dataset.v1.derivation-requested", speaker="gateway"):
    """A version made of others is wanted."""

    dataset_id: UUID
    name: Name
    kind: Literal["split", "mix", "keep"]
    parts: Annotated[list[MixPart], Field(min_length=1)]
    # kind split: the ratio of each split, which sum to 1.
    shares: dict[str, float] = Field(default_factory=dict)
    # kind mix: how many rows in all; else as many as the weights allow.
    rows: int | None = None
    # kind keep: field -> the values a row may have there.
    where: dict[str, list[Any]] = Field(default_factory=dict)
    # Whose the new version will be, and whose the parts are, where they are of one.
    project: Name = DEFAULT_PROJECT
    source_project: Name | None = None


class DatasetDeletionRequested(Event, subject="ltp.dataset.v1.deletion-requested", speaker="gateway"):
    """A version, or with no version every version of a name, is no longer wanted."""

    name: Name
    version: Sha256 | None = None
    project: Name = DEFAULT_PROJECT


class DatasetDeleted(Event, subject="ltp.dataset.v1.deleted", speaker="dataset"):
    """A version is gone, by request or because its time was over."""

    dataset_id: UUID
    name: Name
    version: Sha256
    reason: Literal["requested", "retention"]


class DatasetMarked(Event, subject="ltp.dataset.v1.marked", speaker="gateway"):
    """What a user said of every version of a name. A part that is left out stays as it was."""

    name: Name
    personal: list[str] | None = None
    keep_days: int | None = None
    # Whose name it is; left out, the default project's.
    project: Name | None = None


class ProjectQuotaSet(Event, subject="ltp.project.v1.limited", speaker="gateway"):
    """How many bytes the versions of a project may take; null for no limit."""

    project: Name
    quota_bytes: int | None


class DatasetRejected(Event, subject="ltp.dataset.v1.rejected", speaker="dataset"):
    """The file could not become a dataset; `problem` names the row."""

    dataset_id: UUID
    name: Name
    problem: Problem


# -- questions, asked over request/reply ------------------------------------------------------------------------------


class VersionAsked(Value):
    """A version of a name: the newest, or the one whose hash begins with `version`; maybe one split of it.

    Names are each project's own. Without a project the name must be of one alone.
    """

    project: Name | None = None
    name: Name
    version: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")] | None = None
    split: str | None = None


class VersionDetail(Value):
    """A frozen version with where it came from and what holds for its name."""

    dataset_id: UUID
    name: Name
    version: Sha256
    rows: int
    splits: dict[str, Split]
    format: str
    evidence: str
    duplicates: int
    size_bytes: int
    parents: list[str]
    reason: str
    source: str | None
    provenance: dict[str, Any]
    project: str
    personal: list[str]
    keep_days: int | None
    created_at: datetime


class VersionsAsked(PageQuery):
    """A page of the versions of one name or of all, in one project or in all."""

    project: Name | None = None
    name: Name | None = None


class Versions(Value):
    """A page of versions. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    versions: list[VersionDetail]
    next_cursor: str | None = None


class RowsAsked(VersionAsked):
    """Rows in the order they are filed, from `offset`; or those of the given names (row_id or id)."""

    row_ids: list[str] = Field(default_factory=list)
    offset: int = 0
    limit: int = 20


class Rows(Value):
    """A page of rows. `total` counts those of the split, or of all splits."""

    total: int
    rows: list[dict[str, Any]]


class ProfileAsked(VersionAsked):
    """A profile; with a model also in tokens under its chat template, over `sample_rows` rows."""

    model: str | None = None
    max_length: int = 1024
    sample_rows: int = 500


class DatasetProfile(Value):
    """Split -> profile, and what verl's own dataset class makes of a sample."""

    name: Name
    version: Sha256
    splits: dict[str, dict[str, Any]]
    tokens: dict[str, Any] | None = None


class MaskAsked(VersionAsked):
    """Which tokens of some rows are trained: the rows named, else the first `limit`."""

    model: str
    max_length: int = 1024
    truncation: Literal["left", "right"] = "right"
    row_ids: list[str] = Field(default_factory=list)
    limit: int = 1


class MaskedRows(Value):
    """For each row its counts and, token by token, whether it is trained, masked or cut off."""

    version: Sha256
    rows: list[dict[str, Any]]


class GateAsked(Value):
    """Whether a job with this recipe may start on this version."""

    recipe: Recipe
    dataset: DatasetVersion


class GateAnswer(Value):
    """What was found; a dataset that cannot be learnt from is answered with a problem instead."""

    checked: bool
    why: str = ""
    found: dict[str, Any] = Field(default_factory=dict)


class DiffAsked(Value):
    """What changed between two versions."""

    before: VersionAsked
    after: VersionAsked
    limit: int = 20


class DatasetDiff(Value):
    """Counts, and the first row ids of each kind. `changed` rows have the same id and other content."""

    before: Sha256
    after: Sha256
    added: int
    removed: int
    changed: int
    moved: int
    same: int
    examples: dict[str, list[str]]


class ExportAsked(VersionAsked):
    """A version in another format, as a file."""

    to: str
    kind: str | None = None


class ConvertAsked(Value):
    """A file in another format, without making it a dataset."""

    path: str
    filename: str
    to: str
    kind: str | None = None
    options: ReadOptions = Field(default_factory=ReadOptions)


class ExportedFile(Value):
    """Where the file lies, and how many rows it has."""

    path: str
    rows: int
    format: str
    evidence: str = ""


class InspectAsked(Value):
    """How a source would be read."""

    source: str
    filename: str | None = None
    options: ReadOptions = Field(default_factory=ReadOptions)
    rows: int = 3


class Inspection(Value):
    """The format with its evidence, which column means what, and the first rows in the normal form."""

    files: list[str]
    format: str
    evidence: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]


class DetectedAsked(Value):
    """What lies under the data directory."""


class DetectedPath(Value):
    """A file or folder that could be added as a dataset, or used as a model."""

    name: str
    path: str
    size_bytes: int


class Detected(Value):
    """What was put into `datasets/` and `models/` by hand or by the platform."""

    datasets: list[DetectedPath]
    models: list[DetectedPath]


class QuotaAsked(Value):
    """What a project may take and takes."""

    project: Name = DEFAULT_PROJECT


class Quota(Value):
    """`quota_bytes` is null for no limit."""

    project: str
    quota_bytes: int | None
    used_bytes: int
