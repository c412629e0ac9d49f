"""What a call may do, by the table of scopes alone."""

from __future__ import annotations

from services.gateway.scopes import is_audited, needed


def test_a_question_asked_by_post_is_no_change() -> None:
    searched = "/api/v1/datasets/rows/search"
    assert not is_audited("POST", searched)
    assert needed("POST", searched) == "datasets:read"
    for changed in ("/api/v1/datasets", "/api/v1/datasets/search", "/api/v1/datasets/rows/search/x", "/api/v1/plans"):
        assert is_audited("POST", changed)
    assert is_audited("DELETE", "/api/v1/datasets/rows")
