"""`python -m services.runner`: the runner service as a process."""

from ltp.service.serve import HealthApp, serve
from services.runner.app import runtime

serve(HealthApp(runtime), port=runtime.settings.health_port, host=runtime.settings.health_host)
