"""`python -m services.evaluator.serve --model DIR --port N`: load a model, then answer on the loopback address."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import torch
import uvicorn

from ltp.service.sockets import answer_at_once
from services.evaluator.serve.api import build_app
from services.evaluator.serve.engine import Engine


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.evaluator.serve", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory with config.json and safetensors")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--name", help="name of the model in requests; default: the directory as given")
    parser.add_argument("--threads", type=int, help="threads of torch; default: OMP_NUM_THREADS, else all cores")
    parser.add_argument("--max-batch", type=int, default=32, help="requests answered together")
    arguments = parser.parse_args()
    if not (arguments.model / "config.json").is_file():
        parser.error(f"--model {arguments.model}: no config.json there")
    return arguments


def main() -> None:
    """Load, then serve: whoever gets a connection finds the model ready."""
    arguments = _arguments()
    # Bound before the slow load, so that a port in use is said at once; connections are refused until uvicorn listens.
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    answer_at_once(listener)
    listener.bind((arguments.host, arguments.port))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    engine = Engine.load(arguments.model, max_batch=arguments.max_batch)
    engine.start()
    app = build_app(engine, arguments.name or str(arguments.model))
    # A client that pauses between questions must not find its connection closed in the moment it asks.
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, timeout_keep_alive=600)
    )
    server.run(sockets=[listener])
    engine.stop()


if __name__ == "__main__":
    main()
