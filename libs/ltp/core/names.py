"""Names that are each project's own: what to say where one was looked for in all projects and several have it."""

from __future__ import annotations

from collections.abc import Collection

from ltp.core.errors import ErrorCode, LtpError


def require_one_project(name: str, projects: Collection[str]) -> None:
    """Raise CONFLICT for a dataset's name that several projects have."""
    if len(projects) > 1:
        message = f"The projects {', '.join(sorted(projects))} each have a dataset {name}."
        hint = (
            "Say whose: the header X-LTP-Project, LTP_PROJECT for `ltp`, the dataset's id, or a token of the project."
        )
        raise LtpError(ErrorCode.CONFLICT, message, hint)
