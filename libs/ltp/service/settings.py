"""The settings every service has; each service's own `settings.py` adds to them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommonSettings(BaseSettings):
    """Read from LTP_* environment variables. URLs hold passwords, so they are never logged."""

    model_config = SettingsConfigDict(env_prefix="LTP_", extra="ignore", protected_namespaces=())

    nats_url: str = "nats://127.0.0.1:4222"
    database_url: str = Field(default="postgresql+asyncpg://127.0.0.1:5432/ltp", repr=False)
    data_dir: Path = Path("~/.ltp")
    # Health and metrics, without a token: for the machine itself, or the network of the services alone.
    health_host: str = "127.0.0.1"
    health_port: int = Field(default=8701, ge=1, le=65535)
    log_level: str = "INFO"
    # Of each kind of request or work, where traces are exported and OTEL_TRACES_SAMPLER says nothing else.
    traces_per_second: float = Field(default=10.0, gt=0, le=100_000)

    def root(self) -> Path:
        """The data directory as an absolute path."""
        return self.data_dir.expanduser().resolve()
