"""`python -m services.evaluator`: the evaluator service as a process."""

from services.evaluator.app import runtime
from ltp.service.serve import HealthApp, serve

serve(HealthApp(runtime), port=runtime.settings.health_port)
