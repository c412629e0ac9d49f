"""The sandbox's own process: takes answers to judge as JSON lines, judges each in a fork that cannot outlive its time.

Run as `python -I sandbox_process.py SETTINGS`, where SETTINGS is JSON. Standard library only, apart from math-verify.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from math import isfinite
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cage  # pyright: ignore[reportMissingImports]  # beside this file, which runs as a program

Judge = Callable[[dict[str, Any]], dict[str, Any]]
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_MOST_OUTPUT = 1 << 20


def regex(settings: dict[str, Any]) -> Judge:
    """Compare what the pattern takes out of the answer with the reference."""
    pattern = re.compile(settings["pattern"], re.IGNORECASE if settings["ignore_case"] else 0)

    def judge(item: dict[str, Any]) -> dict[str, Any]:
        found = pattern.search(item["response"])
        if found is None:
            return {"outcome": "unparsable", "detail": {"why": "the pattern finds nothing in the answer"}}
        taken = (found.group(1) if pattern.groups else found.group(0)) or ""
        mine, wanted = taken.strip(), item["reference"].strip()
        same = mine.casefold() == wanted.casefold() if settings["ignore_case"] else mine == wanted
        return {"value": float(same), "detail": {"extracted": taken[:500]}}

    return judge


def math(settings: dict[str, Any]) -> Judge:
    """Equality as mathematics, by math-verify."""
    # Only this scorer needs it, and only here; imported and warmed up before the disk is shut.
    from math_verify import parse, verify

    verify(parse("$1/2$"), parse("0.5"))

    # None, which its types do not name, switches the library's clock off.
    untimed: Any = None

    def judge(item: dict[str, Any]) -> dict[str, Any]:
        # Our own clock watches; the library's alarm would only confuse it.
        wanted = parse(item["reference"], parsing_timeout=untimed) or parse(
            f"${item['reference']}$", parsing_timeout=untimed
        )
        found = parse(item["response"], parsing_timeout=untimed)
        if not wanted:
            return {"outcome": "no_reference", "detail": {"why": "the reference is no mathematics"}}
        if not found:
            return {"outcome": "unparsable", "detail": {"why": "no mathematics in the answer"}}
        return {
            "value": float(verify(wanted, found, timeout_seconds=untimed)),
            "detail": {"extracted": str(found[0])[:200]},
        }

    return judge


def code(settings: dict[str, Any]) -> Judge:
    """Run the answer's code, then the reference's assertions. Only reaching the end counts: `exit(0)` is no success."""

    def judge(item: dict[str, Any]) -> dict[str, Any]:
        blocks = _FENCE.findall(item["response"])
        program = "\n\n".join(blocks) if blocks else item["response"]
        names: dict[str, Any] = {"__name__": "answer"}
        try:
            exec(compile(program, "answer.py", "exec"), names)  # noqa: S102 - what this process is for
            exec(compile(item["reference"], "tests.py", "exec"), names)  # noqa: S102 - as above
        except MemoryError:
            return {"value": 0.0, "detail": {"why": "out of memory"}}
        except BaseException as error:
            return {"value": 0.0, "detail": {"why": f"{type(error).__name__}: {error}"[:500]}}
        return {"value": 1.0, "detail": {}}

    return judge


def function(settings: dict[str, Any]) -> Judge:
    """The user's own `score(response, reference, row)`."""
    names: dict[str, Any] = {"__name__": "scorer"}
    exec(compile(settings["source"], settings["file"], "exec"), names)  # noqa: S102 - what this process is for
    score = names.get("score")
    if not callable(score):
        raise TypeError(f"{settings['file']} defines no function score(response, reference, row)")

    def judge(item: dict[str, Any]) -> dict[str, Any]:
        value: Any = score(item["response"], item["reference"], item["row"])
        if value is None:
            return {"outcome": "unparsable", "detail": {"why": "score() returned None"}}
        return {"value": float(value), "detail": {}}

    return judge


def reward(settings: dict[str, Any]) -> Judge:
    """The user's own reward function, called as verl calls one; what it gives must be a number, or have one as `score`."""
    names: dict[str, Any] = {"__name__": "reward"}
    exec(compile(settings["source"], settings["file"], "exec"), names)  # noqa: S102 - what this process is for
    compute = names.get(settings["function"])
    if not callable(compute):
        raise TypeError(f"{settings['file']} defines no function {settings['function']}")

    def judge(item: dict[str, Any]) -> dict[str, Any]:
        row = item["row"]
        given: Any = compute(
            data_source=row["data_source"], solution_str=item["response"], ground_truth=item["reference"],
            extra_info=row["extra_info"],
        )  # fmt: skip
        value = given["score"] if isinstance(given, dict) else given
        if isinstance(value, str) or not isfinite(float(value)):
            raise ValueError(f"{settings['function']} gave {value!r}, which is no finite number"[:300])
        return {"value": float(value), "detail": {}}

    return judge


# Foreign code loads behind shut doors; ours loads before, while its libraries can still be read.
FOREIGN = {"function": function, "reward": reward}
KINDS = {"regex": regex, "math": math, "code": code, **FOREIGN}


def main() -> None:
    """Say how well the cage holds, then judge line after line until standard input ends."""
    settings = json.loads(sys.argv[1])
    make = KINDS[settings["name"]]
    try:
        judge = None if settings["name"] in FOREIGN else make(settings)
        hold = cage.enter(settings["hidden"], settings["scratch"])
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            os._exit(0)
        cage.die_with_parent()
        judge = judge or make(settings)
    except Exception as error:
        _say({"problem": f"{type(error).__name__}: {error}"[:1000]})
        return
    _say({"cage": hold})
    for line in sys.stdin:
        _say(_run(judge, json.loads(line), settings, alone=hold == "full"))


def _run(judge: Judge, item: dict[str, Any], settings: dict[str, Any], *, alone: bool) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _judge_and_exit(judge, item, settings, writer)
    os.close(writer)
    said = _read(reader, time.monotonic() + settings["timeout_seconds"])
    os.close(reader)
    for target, send in ((child, os.killpg), (child, os.kill)):
        try:
            send(target, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    if alone:
        # First of our pid space: what the code left running, in whatever session, ends here.
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _, status = os.waitpid(child, 0)
    if said is None:
        return {
            "value": 0.0,
            "detail": {"why": f"not done within {settings['timeout_seconds']:g} s"},
            "late": True,
            "failed": True,
        }
    try:
        return json.loads(said)
    except ValueError:
        return {"value": 0.0, "detail": {"why": f"the process ended early (status {status})"}, "failed": True}


def _judge_and_exit(judge: Judge, item: dict[str, Any], settings: dict[str, Any], writer: int) -> None:
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    cage.limit(settings["memory_bytes"], settings["timeout_seconds"])
    try:
        result = judge(item)
    except BaseException as error:
        result = {
            "outcome": "unparsable",
            "detail": {"why": f"the scorer failed: {type(error).__name__}: {error}"[:500]},
            "failed": True,
        }
    os.write(writer, json.dumps(result).encode() + b"\n")
    os._exit(0)


def _read(reader: int, deadline: float) -> bytes | None:
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(reader, 65_536)
        parts.append(part)
        # Up to the line's end: a child that the code left behind may hold the pipe open.
        if not part or part.endswith(b"\n") or sum(map(len, parts)) > _MOST_OUTPUT:
            return b"".join(parts)


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
