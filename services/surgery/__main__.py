"""`python -m services.surgery`: the surgery service as a process."""

from services.surgery.app import runtime
from ltp.service.serve import HealthApp, serve

serve(HealthApp(runtime), port=runtime.settings.health_port)
