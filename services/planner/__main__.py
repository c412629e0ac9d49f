"""`python -m services.planner`: the planner service as a process."""

from services.planner.app import runtime
from ltp.service.serve import HealthApp, serve

serve(HealthApp(runtime), port=runtime.settings.health_port)
