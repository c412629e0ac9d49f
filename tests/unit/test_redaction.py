"""No secret reaches a log line, whatever field or text it stands in; and what is none is left alone."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from ltp.telemetry.logs import redacted, setup_logs


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql+asyncpg://ltp:s3cr3t-pw@127.0.0.1:5432/ltp", "s3cr3t-pw"),
        ("Authorization: Bearer abcdefghij0123456789", "abcdefghij0123456789"),
        ("token ltp_0123abcd_YfyKYYO0zug4v4he4wmkRlOFOiwgl9-V2JaDTOW9M5s was used", "YfyKYYO0zug4v4he4wm"),
        ("hf_abcdefghijklmnopqrstuv is your token", "hf_abcdefghijklmnop"),
        ("key sk-abcdefghijklmnopqrstuvwx", "sk-abcdefghijk"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----", "b3BlbnNz"),
        ("sshpass failed: password=hunter22 host=a", "hunter22"),
        ('{"api_key": "abcd1234efgh"}', "abcd1234efgh"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in redacted(text)
    assert "***" in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8700/api/v1/jobs",
        "max_new_tokens=64 tokens: 12",
        "handler failed, will be tried again",
        "01a20884-46b9-7c9f-a986-394991b27e5f",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_lines_of_both_kinds_of_loggers_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        setup_logs("planner", "INFO")
        structlog.get_logger().info(
            "asked", password="hunter22", url="nats://u:hunter22@h", nested={"api_key": "hunter22"}
        )
        logging.getLogger("foreign").warning("cannot reach amqp://u:hunter22@h")
        try:
            raise ValueError("Bearer hunter22hunter22")
        except ValueError:
            structlog.get_logger().exception("failed")
    finally:
        root.handlers, root.level = handlers, level
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    lines = capsys.readouterr().out
    assert "hunter22" not in lines
    assert [json.loads(line)["event"] for line in lines.splitlines()] == [
        "asked", "cannot reach amqp://u:***@h", "failed"
    ]  # fmt: skip
