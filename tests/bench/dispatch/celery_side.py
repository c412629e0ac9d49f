"""Celery's side of the dispatch benchmark, run with the peer's own interpreter: the application, and a producer process.

`celery -A celery_side worker …` does work; `python celery_side.py burst|paced COUNT` puts work in. The broker and the
result backend are BENCH_REDIS_URL, and each piece notes in BENCH_LOG when it began.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import redis
from celery import Celery

URL = os.environ["BENCH_REDIS_URL"]
IN_FLIGHT = 8
PACE_SECONDS = 0.02

app = Celery("bench", broker=URL, backend=URL)
# Work survives the death of its worker, as ours does; results are kept, as ours are.
app.conf.update(
    task_acks_late=True, worker_prefetch_multiplier=4, task_track_started=False, worker_redirect_stdouts=False
)


@app.task(name="bench")
def bench(index: int) -> None:
    """Note when this piece began."""
    handle = os.open(os.environ["BENCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{index} {time.time()}\n".encode())
    os.close(handle)


def put(index: int) -> float:
    """Send one piece; returns when the call began."""
    began = time.time()
    bench.delay(index)
    return began


def burst(count: int) -> dict[str, float]:
    """As fast as possible; returns seconds until the last piece was acknowledged."""
    began, used = time.time(), time.process_time()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(put, range(count)))
    entered = time.time()
    _drain()
    return {"seconds": time.time() - began, "enqueue_seconds": entered - began, "cpu": time.process_time() - used}


def paced(count: int) -> dict[str, list[float]]:
    """One piece every 20 ms; returns when each call began."""
    began = []
    start = time.time()
    for index in range(count):
        time.sleep(max(0.0, start + index * PACE_SECONDS - time.time()))
        began.append(put(index))
    _drain()
    return {"began": began}


def _drain() -> None:
    client = redis.Redis.from_url(URL)
    while client.llen("celery") or client.hlen("unacked"):
        time.sleep(0.02)


if __name__ == "__main__":
    print(json.dumps((burst if sys.argv[1] == "burst" else paced)(int(sys.argv[2]))))
