"""The supervisor as a process of its own: what `ltp up --detach` starts; it reports through a pipe, once."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path

from ltp.core.errors import LtpError
from ltp.up.platform import log_through, run_platform
from ltp.up.record import RunRecord
from ltp.up.services import platform_commands
from ltp.up.state import DataDir


def main() -> int:
    """Run the platform; say `{}` into the pipe when it is ready, or what went wrong."""
    options = _options()
    log_through(logging.StreamHandler())  # stderr is DATA/logs/supervisor.log
    pipe = os.fdopen(options.outcome_fd, "w")

    def report(outcome: dict[str, str]) -> None:
        with contextlib.suppress(BrokenPipeError), pipe:  # whoever waited may have gone
            json.dump(outcome, pipe)

    def ready(_: RunRecord) -> None:
        report({})

    try:
        asyncio.run(run_platform(DataDir.at(options.data_dir), options.port, platform_commands(), on_ready=ready))
    except LtpError as error:
        logging.getLogger(__name__).error("%s", error)
        if not pipe.closed:
            report({"code": error.code, "message": error.message, "hint": error.hint})
        return 1
    return 0


class _Options(argparse.Namespace):
    data_dir: Path
    port: int | None
    outcome_fd: int


def _options() -> _Options:
    parser = argparse.ArgumentParser(prog="ltp.up")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--outcome-fd", type=int, required=True)
    return parser.parse_args(namespace=_Options())


if __name__ == "__main__":
    sys.exit(main())
