"""`python -m services.runner`: the runner service as a process."""

from services.runner.app import runtime
from ltp.service.serve import HealthApp, serve

serve(HealthApp(runtime), port=runtime.settings.health_port)
