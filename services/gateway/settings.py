"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ltp.security.oidc import Oidc
from ltp.service.settings import CommonSettings


class GatewaySettings(CommonSettings):
    """LTP_* for what all share, LTP_GATEWAY_* for its own."""

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8700, ge=1, le=65535)
    # A file with the first administrator's token. Without it, and without tokens in the database, nobody gets in.
    gateway_token_file: Path | None = None
    # A file with the token that Prometheus shows at /metrics, and that opens nothing else.
    gateway_metrics_token_file: Path | None = None
    gateway_requests_per_second: float = Field(default=1000, gt=0)
    gateway_max_body_bytes: int = Field(default=16 << 20, gt=0)
    # Folders beside DATA/models and DATA/datasets that requests of one project may name.
    gateway_path_roots: list[str] = Field(default_factory=list[str])
    # Origins whose pages may call the API; none is the default.
    gateway_cors_origins: list[str] = Field(default_factory=list[str])
    # An OpenID Connect issuer whose tokens are taken too, and whom they must be meant for. None is the default.
    gateway_oidc_issuer: str | None = None
    gateway_oidc_audience: str = "ltp"
    gateway_oidc_role_claim: str = "ltp_role"
    gateway_oidc_project_claim: str = "ltp_project"
    gateway_tls_certificate: Path | None = None
    gateway_tls_key: Path | None = None
    # Networks (CIDR) that webhooks may reach beside the public internet; none is the default.
    gateway_webhook_networks: list[str] = Field(default_factory=list[str])
    # The pause after the first failure; each further one is four times as long, up to six hours.
    gateway_webhook_retry_seconds: float = Field(default=5.0, gt=0)
    gateway_webhook_attempts: int = Field(default=10, ge=1, le=100)
    gateway_webhook_disable_after_seconds: float = Field(default=5 * 86_400.0, gt=0)
    # The folder of the file of users that NATS includes, and the URL of its system account's user, which reads it anew.
    # `ltp up` sets both; without them no subscriber can be made.
    gateway_bus_folder: Path | None = None
    gateway_bus_system_url: str | None = Field(default=None, repr=False)
    # A follower of a stream who takes nothing for so long is hung up on.
    gateway_slow_seconds: float = Field(default=30.0, gt=0)
    # Streams (SSE and WebSocket) that may be open at once in a gateway process: of one token, and in all.
    gateway_streams_per_token: int = Field(default=1000, ge=1)
    gateway_streams: int = Field(default=4000, ge=1)
    gateway_max_upload_bytes: int = Field(default=20 << 30, gt=0)
    # Further directories of reward functions beside DATA/rewards, separated as in PATH.
    reward_roots: str = ""

    def oidc(self) -> Oidc | None:
        """The trusted issuer, where there is one."""
        if self.gateway_oidc_issuer is None:
            return None
        claims = self.gateway_oidc_role_claim, self.gateway_oidc_project_claim
        return Oidc(self.gateway_oidc_issuer, self.gateway_oidc_audience, *claims)
