"""How one sample is asked: a plain conversation, one whose turns are all answered anew, or the likelihood of a reference."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ltp.contracts.evaluation_spec import LikelihoodScorer, RunSpec, Sampling
from services.evaluator.endpoint import Endpoint
from services.evaluator.samples import Answer, Failure, Message, Row

Asker = Callable[[Row, int], Awaitable[Answer | Failure]]


def asker(endpoint: Endpoint, spec: RunSpec) -> Asker:
    """What asks a row for its `index`-th answer."""
    if isinstance(spec.scorer, LikelihoodScorer):
        return lambda row, index: _likelihood(endpoint, row, spec.sampling)
    if spec.sampling.turns == "generated":
        return lambda row, index: _every_turn(endpoint, row, spec.sampling, index)
    return lambda row, index: endpoint.chat(_prompt(row, spec.sampling), _settings(spec.sampling, index))


def _prompt(row: Row, sampling: Sampling) -> list[Message]:
    turns = list(row.prompt)
    return turns if sampling.system is None else [Message(role="system", content=sampling.system), *turns]


def _settings(sampling: Sampling, index: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        settings["top_p"] = sampling.top_p
    if sampling.seed is not None:
        # Another seed for each answer to the same prompt, or they would all be the same.
        settings["seed"] = sampling.seed + index
    if sampling.stop:
        settings["stop"] = list(sampling.stop)
    return settings


async def _every_turn(endpoint: Endpoint, row: Row, sampling: Sampling, index: int) -> Answer | Failure:
    """Answer each user turn in order; what the row has as assistant turns is replaced by the model's own."""
    said: list[Message] = []
    turns: list[str] = []
    tokens = [0, 0]
    seconds = 0.0
    answer: Answer | Failure = Failure("refused", "the prompt has no user turn")
    for turn in _prompt(row, sampling):
        if turn["role"] == "assistant":
            continue
        said.append(turn)
        if turn["role"] != "user":
            continue
        answer = await endpoint.chat(said, _settings(sampling, index))
        if isinstance(answer, Failure):
            return answer
        said.append(Message(role="assistant", content=answer.text))
        turns.append(answer.text)
        tokens = [tokens[0] + (answer.prompt_tokens or 0), tokens[1] + (answer.completion_tokens or 0)]
        seconds += answer.latency_seconds
    if isinstance(answer, Failure):
        return answer
    return Answer(answer.text, answer.finish_reason, tokens[0], tokens[1], seconds, {"turns": turns})


async def _likelihood(endpoint: Endpoint, row: Row, sampling: Sampling) -> Answer | Failure:
    """The log-probability of the reference after the prompt, by vLLM's `tokenize` and OpenAI's echoed completions."""
    root = {"messages": _prompt(row, sampling), "add_generation_prompt": True}
    context = await endpoint.post("/tokenize", root)
    if isinstance(context, Failure):
        return _without_echo(context)
    wanted = await endpoint.post("/tokenize", {"prompt": row.answer or "", "add_special_tokens": False})
    if isinstance(wanted, Failure):
        return _without_echo(wanted)
    try:
        before, tokens = context[0]["tokens"], wanted[0]["tokens"]
        body = {"prompt": before + tokens, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        found = await endpoint.post("completions", body)
        if isinstance(found, Failure):
            return found
        logprobs = found[0]["choices"][0]["logprobs"]
        own = [float(value) for value in logprobs["token_logprobs"][len(before) : len(before) + len(tokens)]]
        tops = logprobs["top_logprobs"][len(before) : len(before) + len(tokens)]
        greedy = all(value >= max(top.values()) - 1e-9 for value, top in zip(own, tops, strict=True))
    except (LookupError, TypeError, ValueError) as error:
        return Failure("malformed", f"no log-probabilities in the answer: {error!r}")
    detail = {"logprob": sum(own), "tokens": len(own), "greedy": greedy}
    return Answer("", "stop", len(before) + len(tokens), 0, found[1], detail)


def _without_echo(failure: Failure) -> Failure:
    if failure.kind == "model_not_found":
        return Failure("unsupported", "this endpoint has no /tokenize, so it cannot score a given answer")
    return failure
