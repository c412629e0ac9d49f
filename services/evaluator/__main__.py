"""`python -m services.evaluator`: the evaluator service as a process."""

from ltp.service.serve import HealthApp, serve
from services.evaluator.app import runtime

serve(HealthApp(runtime), port=runtime.settings.health_port, host=runtime.settings.health_host)
