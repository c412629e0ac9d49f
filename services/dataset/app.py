"""Wiring of the dataset service."""

from __future__ import annotations

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.dataset import similar
from services.dataset.handlers import SERVICE, freeze_upload, reject_upload, router
from services.dataset.settings import DatasetSettings

settings = DatasetSettings()
runtime = Runtime(SERVICE, settings, [router, *similar.ROUTERS])
_versions = settings.root() / "datasets"
runtime.workers.append(
    Worker(
        runtime.database,
        kind="freeze",
        name=SERVICE,
        handler=lambda held: freeze_upload(held, runtime.database, _versions),
        on_failed=reject_upload,
    )
)
similar.install(runtime, settings)
