"""Wiring of the dataset service."""

from __future__ import annotations

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.dataset import similar
from services.dataset.gate import Gate
from services.dataset.handlers import SERVICE, Freezer, derive_version, reject, remove_files, retire_forever, router
from services.dataset.masks import MaskProcess
from services.dataset.questions import questions, versions_dir
from services.dataset.settings import DatasetSettings

settings = DatasetSettings()
runtime = Runtime(SERVICE, settings, [router, questions, *similar.ROUTERS])
masks = MaskProcess(settings.dataset_python)
runtime.provide(masks=masks, gate=Gate(masks, settings.dataset_gate_rows))
_database, _versions = runtime.database, versions_dir(settings)
_freezer = Freezer(_database, settings, _versions, masks.warm)
runtime.workers += [
    Worker(_database, kind="freeze", name=SERVICE, handler=_freezer, on_failed=reject),
    Worker(
        _database,
        kind="derive",
        name=SERVICE,
        handler=lambda held: derive_version(held, _database, _versions),
        on_failed=reject,
    ),
    Worker(_database, kind="remove", name=SERVICE, handler=lambda held: remove_files(held, _database, _versions)),
]
runtime.loops += [
    ("retention", lambda: retire_forever(_database, settings.dataset_retention_poll_seconds)),
    ("mask process", masks.rest_forever),
]
similar.install(runtime, settings)
