"""Who wants to be alone waits for the others, and they for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock

from ltp.tensors.sharing import Sharing

SECONDS = 10.0


def test_many_come_together_and_one_alone() -> None:
    sharing, barrier, inside, most = Sharing(), Barrier(3), set[int](), list[int]()
    lock, left = Lock(), Event()

    def noted(number: int, then: Callable[[], object]) -> None:
        with lock:
            inside.add(number)
            most.append(len(inside))
        then()
        with lock:
            inside.discard(number)

    def together(number: int) -> None:
        with sharing.together():
            # All three are in at once, or this never returns.
            noted(number, lambda: barrier.wait(SECONDS))
        left.set()

    def alone(number: int) -> None:
        assert left.wait(SECONDS)
        with sharing.alone():
            noted(number, lambda: most.append(-len(inside)))

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(together, n) for n in range(3)] + [pool.submit(alone, n) for n in range(3, 6)]:
            future.result(SECONDS)
    assert max(most) == 3 and [size for size in most if size < 0] == [-1, -1, -1]
