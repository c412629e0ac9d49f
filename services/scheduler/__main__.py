"""`python -m services.scheduler`: the scheduler service as a process."""

from services.scheduler.app import runtime
from ltp.service.serve import HealthApp, serve

serve(HealthApp(runtime), port=runtime.settings.health_port)
