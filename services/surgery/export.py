"""The export of a verl FSDP checkpoint as a process of its own, which alone needs torch.

`python -m services.surgery.export CHECKPOINT_DIR OUT_DIR [--dtype keep]`. The answer is one JSON line on standard output; a
problem is one JSON line on standard error, with exit code 1.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.fsdp_export import DTYPES, export


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="services.surgery.export", description="verl checkpoint to Hugging Face model"
    )
    parser.add_argument("checkpoint", type=Path, help="directory with the shards (for RL the actor/ directory)")
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument("--dtype", choices=list(DTYPES), default="keep")
    options = parser.parse_args(arguments)
    try:
        answer = export(options.checkpoint, options.out, dtype=options.dtype)
    except LtpError as error:
        problem = error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = ErrorCode.DISK_FULL if full else ErrorCode.EXPORT_FAILED
        problem = LtpError(code, f"{options.out} cannot be written: {error.strerror or error}.", "Check the disk.")
    else:
        print(json.dumps(asdict(answer)))
        return 0
    print(json.dumps({"code": problem.code, "message": problem.message, "hint": problem.hint}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
