"""The one table that says which scope a call needs. What it does not name is closed to all but administrators. Pure."""

from __future__ import annotations

import re

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import Principal

# First part of the path -> whose scope.
_NOUN = {
    "plans": "jobs", "jobs": "jobs", "standings": "jobs", "recipes": "jobs", "attempts": "jobs", "runs": "jobs", "checkpoints": "jobs",
    "datasets": "datasets", "dataset-quotas": "platform", "suites": "evaluations",
    "evaluations": "evaluations", "evaluation": "evaluations", "comparisons": "evaluations", "benchmarks": "evaluations",
    "promotions": "evaluations", "operations": "operations", "merges": "operations",
    "pipelines": "pipelines", "pipeline-runs": "pipelines", "artefacts": "pipelines", "lineage": "pipelines",
    "schedules": "schedules", "hosts": "hosts", "run-mode": "hosts", "run-modes": "hosts", "devices": "hosts",
    "queues": "platform", "projects": "platform", "dead-letters": "platform", "workers": "platform",
    "work": "work", "tasks": "work", "events": "events", "logs": "jobs", "metrics": "metrics", "monitoring": "metrics",
    "alerts": "metrics", "calibration": "platform", "calibrations": "platform", "models": "models",
    "tokens": "tokens", "secrets": "secrets", "webhooks": "webhooks", "bus-accounts": "accounts", "audit": "audit",
    "settings": "settings", "kubeflow": "metrics",
}  # fmt: skip
_OPENAI = {"files": "datasets", "fine_tuning": "jobs", "models": "models", "chat": "models"}

# Questions that are asked by POST, and what is stricter than its verb.
_EXCEPTIONS: tuple[tuple[str, re.Pattern[str], str | None], ...] = tuple(
    (method, re.compile(pattern), scope)
    for method, pattern, scope in (
        ("GET", r"/api/v1/whoami", None),
        ("POST", r"/api/v1/plans(/.*)?", "jobs:read"),
        ("POST", r"/api/v1/datasets/[^/]+/search", "datasets:read"),
        ("POST", r"/api/v1/datasets/(inspect|convert)", "datasets:read"),
        ("POST", r"/api/v1/evaluations/[^/]+/calibration", "evaluations:read"),
        ("POST", r"/api/v1/operations/preflight", "operations:read"),
        ("POST", r"/api/v1/pipeline-runs/preview", "pipelines:read"),
        ("POST", r"/v1/chat/completions", "models:read"),
        # Letters and workers show what all projects do.
        ("GET", r"/api/v1/dead-letters(/.*)?", "platform:write"),
        ("GET", r"/api/v1/workers", "platform:write"),
        # Counts of all projects.
        ("GET", r"/metrics", "platform:read"),
        ("POST", r"/api/v1/secrets/rotate", "settings:write"),
        ("POST", r"/api/v1/hosts/[^/]+/test(-connection)?", "hosts:write"),
    )
)
# Nobody but an administrator has it.
CLOSED = "settings:write"
# Hundreds a second: an event of each would weigh more than what it tells of, so the door tells of them by the window.
_PUSHES = re.compile(r"/api/v1/(metrics|kubeflow/[^/]+)")
# Asked by POST, and nothing is other than before: a search costs a quarter of what writing it down would add.
_QUESTIONS = re.compile(r"/api/v1/(datasets/[^/]+/search|datasets/inspect|operations/preflight|pipeline-runs/preview)")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


def needed(method: str, path: str) -> str | None:
    """The scope a call needs; None where any token will do."""
    for known, pattern, scope in _EXCEPTIONS:
        if method == known and pattern.fullmatch(path):
            return scope
    parts = path.split("/")
    nouns, first = (_OPENAI, 2) if path.startswith("/v1/") else (_NOUN, 3)
    noun = nouns.get(parts[first]) if len(parts) > first else None
    if noun is None:
        return CLOSED
    return f"{noun}:{'read' if method in _READS else 'write'}"


def lacking(principal: Principal, scope: str | None, hint: str) -> LtpError | None:
    """What stands against a call that needs a scope; None where nothing does."""
    if principal.may(scope):
        return None
    return LtpError(ErrorCode.FORBIDDEN, f"A token of role {principal.role} lacks the scope {scope}.", hint)


def is_audited(method: str, path: str) -> bool:
    """Whether a call may change something, and is written into the audit by itself."""
    return method not in _READS and not is_push(method, path) and _QUESTIONS.fullmatch(path) is None


def is_push(method: str, path: str) -> bool:
    """Whether a call brings points of a run: the first one of each window stands in the audit for those that follow."""
    return method == "POST" and _PUSHES.fullmatch(path) is not None
