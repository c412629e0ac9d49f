"""Reads a file into a version in small blocks, slowly enough to be killed anywhere: `python ingest_to_kill.py FILE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from services.dataset import source, spool
from services.dataset.ingest import SourceFile, freeze

source.BLOCK_BYTES = 4096
spool.RANGE_BYTES = 16_384

file = Path(sys.argv[1])
print(freeze([SourceFile(file, file.name)], name="x", holdout=0.2, versions_dir=Path(sys.argv[2]), owner="k").version)  # noqa: T201 - its answer
