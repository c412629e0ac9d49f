"""Fetches a dataset's files from a hub, by the hubs' own clients, into a folder of ours."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError

_REFERENCE = re.compile(
    r"(?P<hub>hf|modelscope)://(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/\s]+))?(?:/(?P<file>\S+))?"
)
DATA_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
INFO = "dataset_info.json"


@dataclass(frozen=True)
class HubSettings:
    """Where the hubs are, and what opens them. An empty endpoint is the hub's own."""

    hf_endpoint: str
    hf_token: str | None
    modelscope_endpoint: str
    modelscope_token: str | None
    offline: bool
    max_bytes: int


@dataclass(frozen=True)
class Reference:
    """`hf://owner/name[@revision][/file or pattern]`, or the same with `modelscope://`."""

    hub: str
    repo: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises INVALID_REQUEST when the text is no reference."""
        found = _REFERENCE.fullmatch(text)
        if found is None or ".." in found["repo"] or ".." in (found["file"] or "").split("/"):
            message = f"{text!r} is no reference to a hub."
            hint = "Write hf://OWNER/NAME[@REVISION][/FILE], or modelscope:// with the same."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, hint)
        return cls(found["hub"], found["repo"], found["revision"], found["file"])


def fetch(reference: Reference, into: Path, settings: HubSettings) -> list[tuple[Path, str]]:
    """The data files of a repository as (where they lie, their path there).

    Raises LtpError: NOT_FOUND, SOURCE_UNREACHABLE (no network, a hub that is down, or LTP_DATASET_OFFLINE), TOO_LARGE,
    DEPENDENCY_MISSING.
    """
    if settings.offline:
        message = f"{reference.repo} is on a hub, and this platform works offline."
        raise LtpError(ErrorCode.SOURCE_UNREACHABLE, message, "Unset LTP_DATASET_OFFLINE, or upload the file.")
    into.mkdir(parents=True, exist_ok=True)
    return (_from_hf if reference.hub == "hf" else _from_modelscope)(reference, into, settings)


def wanted(names: list[str], pattern: str | None) -> list[str]:
    """The files to take: those that the pattern fits, else all that hold data."""
    if pattern is not None:
        return [n for n in names if n == pattern or n.startswith(f"{pattern}/") or fnmatch.fnmatch(n, pattern)]
    return [n for n in names if n.lower().endswith(DATA_SUFFIXES) and not n.rsplit("/", 1)[-1].startswith(".")]


def _from_hf(reference: Reference, into: Path, settings: HubSettings) -> list[tuple[Path, str]]:
    with _answered(reference, settings.hf_endpoint or "https://huggingface.co"):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=settings.hf_endpoint or None, token=settings.hf_token or False)
        info = api.dataset_info(reference.repo, revision=reference.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        names = _chosen(reference, list(sizes), sizes, settings)
        return [
            (
                Path(
                    api.hf_hub_download(
                        reference.repo, name, repo_type="dataset", revision=info.sha or reference.revision,
                        local_dir=into,
                    )
                ),
                name,
            )
            for name in names
        ]  # fmt: skip


def _from_modelscope(reference: Reference, into: Path, settings: HubSettings) -> list[tuple[Path, str]]:
    with _answered(reference, settings.modelscope_endpoint or "https://www.modelscope.cn"):
        from modelscope_hub import HubApi

        api = HubApi(token=settings.modelscope_token, endpoint=settings.modelscope_endpoint or None)
        files = api.list_repo_files(reference.repo, "dataset", revision=reference.revision)
        sizes = {file.path: file.size or 0 for file in files if file.type != "tree"}
        names = _chosen(reference, list(sizes), sizes, settings)
        return [
            (
                Path(api.download_file(reference.repo, "dataset", name, revision=reference.revision, local_dir=into)),
                name,
            )
            for name in names
        ]


def _chosen(reference: Reference, names: list[str], sizes: dict[str, int], settings: HubSettings) -> list[str]:
    chosen = wanted(names, reference.file)
    if not chosen:
        what = f"no file that fits {reference.file}" if reference.file else "no JSONL, JSON, CSV or Parquet file"
        message = f"{reference.repo} has {what}. It has {len(names)} files: {', '.join(sorted(names)[:10])}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "Name the file after the repository, with a slash.")
    if (size := sum(sizes[name] for name in chosen)) > settings.max_bytes:
        message = f"{reference.repo} has {size} bytes, and at most {settings.max_bytes} are read."
        raise LtpError(ErrorCode.TOO_LARGE, message, "Name one file, or raise LTP_DATASET_MAX_UNPACKED_BYTES.")
    if INFO in names and INFO not in chosen and reference.file is None:
        chosen.append(INFO)
    return chosen


@contextmanager
def _answered(reference: Reference, endpoint: str) -> Iterator[None]:
    """Turn what the clients raise into what it means. Their messages may hold headers, so only their kind is told."""
    try:
        yield
    except LtpError:
        raise
    except ImportError as error:
        message = f"The client for {reference.hub}:// is not installed ({error.name})."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "Install the extra `dataset`.") from error
    except Exception as error:
        kind = type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if kind == "HFValidationError":
            message = f"{reference.repo!r} is no name of a dataset on {endpoint}."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Write hf://OWNER/NAME[@REVISION][/FILE].") from error
        if status in {401, 403} or "Gated" in kind:
            message = f"{endpoint} does not let us read {reference.repo} ({kind})."
            hint = "It may be private, gated or misspelt: give a token with LTP_DATASET_HF_TOKEN or _MODELSCOPE_TOKEN."
            raise LtpError(ErrorCode.NOT_FOUND, message, hint) from error
        if status == 404 or "NotFound" in kind or "NotExist" in kind:
            message = f"{endpoint} has no dataset {reference.repo}"
            message += f" in revision {reference.revision} ({kind})." if reference.revision else f" ({kind})."
            raise LtpError(ErrorCode.NOT_FOUND, message, "Check owner, name and revision.") from error
        message = f"{endpoint} could not be read: {kind}{f' (HTTP {status})' if status else ''}."
        hint = "Check the network, or set a mirror with LTP_DATASET_HF_ENDPOINT or LTP_DATASET_MODELSCOPE_ENDPOINT."
        raise LtpError(ErrorCode.SOURCE_UNREACHABLE, message, hint) from error
