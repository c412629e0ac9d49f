"""`python -m services.surgery`: the surgery service as a process."""

from ltp.service.serve import HealthApp, serve
from services.surgery.app import runtime

serve(HealthApp(runtime), port=runtime.settings.health_port, host=runtime.settings.health_host)
