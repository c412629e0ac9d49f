"""`python -m services.dataset`: the dataset service as a process."""

from services.dataset.app import runtime
from ltp.service.serve import HealthApp, serve

serve(HealthApp(runtime), port=runtime.settings.health_port)
