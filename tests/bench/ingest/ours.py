"""Our side of part `ingest`, in a process of its own: `python -m tests.bench.ingest.ours FILE FOLDER`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from services.dataset.files import PROFILE
from services.dataset.ingest import SourceFile, freeze


def main(path: str, folder: str) -> None:
    """Ingest and profile, then print seconds, peak memory in bytes, and the profile."""
    began = time.perf_counter()
    versions = Path(folder)
    frozen = freeze(
        [SourceFile(Path(path), Path(path).name)], name="bench", holdout=0.0, versions_dir=versions, owner="bench"
    )
    seconds = time.perf_counter() - began
    # Of this program alone: `ru_maxrss` would count what its parent held when it forked.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    profile = json.loads((versions / frozen.version / PROFILE).read_text())["train"]
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "rows": frozen.rows, "profile": profile}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
