"""Wiring of the dataset service."""

from __future__ import annotations

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.dataset import similar
from services.dataset.apart import keep_ready
from services.dataset.gate import Gate
from services.dataset.handlers import SERVICE, router
from services.dataset.masks import MaskProcess
from services.dataset.questions import files, training, versions
from services.dataset.questions.asked import versions_dir
from services.dataset.removal import remove_files, retire_forever
from services.dataset.settings import DatasetSettings
from services.dataset.vectors.removal import forget_vectors
from services.dataset.work import Freezer, derive_version, reject

settings = DatasetSettings()
_questions = [part.questions for part in (versions, training, files)]
runtime = Runtime(SERVICE, settings, [router, *_questions, *similar.ROUTERS])
masks = MaskProcess(settings.dataset_python)
runtime.provide(masks=masks, gate=Gate(masks, settings.dataset_gate_rows))
_database, _versions = runtime.database, versions_dir(settings)
_library = similar.install(runtime, settings)
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
    Worker(
        _database,
        kind="remove",
        name=SERVICE,
        handler=lambda held: remove_files(
            held, _database, _versions, lambda version: forget_vectors(_database, _library, version)
        ),
    ),
]
runtime.loops += [
    ("retention", lambda: retire_forever(_database, settings)),
    ("mask process", masks.rest_forever),
    ("work processes", keep_ready),
]
