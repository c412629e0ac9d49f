"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ltp.service.settings import CommonSettings


class GatewaySettings(CommonSettings):
    """LTP_* for what all share, LTP_GATEWAY_* for its own."""

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8700, ge=1, le=65535)
    # A file with the one token that opens the API. Without it every request is refused: there is no default.
    gateway_token_file: Path | None = None
    gateway_max_upload_bytes: int = Field(default=20 << 30, gt=0)
    # Further directories of reward functions beside DATA/rewards, separated as in PATH.
    reward_roots: str = ""
