"""`python -m services.planner`: the planner service as a process."""

from ltp.service.serve import HealthApp, serve
from services.planner.app import runtime

serve(HealthApp(runtime), port=runtime.settings.health_port, host=runtime.settings.health_host)
