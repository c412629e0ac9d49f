"""`python -m services.gateway`: the gateway as a process."""

from ltp.service.serve import serve
from services.gateway.app import app, settings

serve(
    app,
    port=settings.gateway_port,
    host=settings.gateway_host,
    certificate=settings.gateway_tls_certificate,
    key=settings.gateway_tls_key,
    slow_seconds=settings.gateway_slow_seconds,
)
