"""`make compose-up-check`: the stack of our own services comes up in containers, does the main job, and goes down clean.

What it needs and what stands in for what: docs/operations.md. The images stay in the folder for the next run; `--remove`
deletes it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.podman.engine import CheckFailedError, Engine
from tests.podman.images import make_images
from tests.podman.stack import Stack

FOLDER = Path.home() / ".cache" / "ltp-bench" / "podman"


def main() -> int:
    """Exit code: 0 when everything held, 1 with what did not."""
    parser = argparse.ArgumentParser(prog="make compose-up-check", description=__doc__)
    parser.add_argument("--compose", type=Path, required=True, help="the program podman-compose")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where images and containers are kept")
    parser.add_argument("--job", choices=("demo", "tiny"), default="demo")
    parser.add_argument("--remove", action="store_true", help="delete the images and the storage, and do nothing else")
    args = parser.parse_args()
    engine = Engine(args.folder.resolve(), args.compose.resolve())
    try:
        engine.prepare()
        if args.remove:
            engine.remove()
        else:
            check(engine, real=args.job == "demo")
    except CheckFailedError as failure:
        print(f"compose-up-check: {failure}", file=sys.stderr)
        return 1
    return 0


def check(engine: Engine, *, real: bool) -> None:
    """Images, stack, job, logs, end."""
    if there := engine.left():
        raise CheckFailedError(f"an earlier run left {there}; --remove ends and deletes it")
    make_images(engine)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(engine, Path(folder))
        stack.prepare()
        began = time.monotonic()
        try:
            stack.up()
            print(f"up: every service is healthy after {time.monotonic() - began:.0f} s", flush=True)
            faults = stack.job(real=real)
            faults += stack.complaints()
        finally:
            stack.down()
    faults += [f"left behind: {what}" for what in engine.left()]
    if faults:
        raise CheckFailedError("\n".join(faults))
    print("down: no container, network, volume or process is left; no service complained")


if __name__ == "__main__":
    sys.exit(main())
