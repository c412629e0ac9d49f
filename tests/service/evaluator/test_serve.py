"""The inference server as people's tools meet it: through the real `openai` client, and by hand where that is stricter."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from services.evaluator.inference import InferenceServer

# Of the tiny model in conftest.py.
CONTEXT = 128

pytestmark = [pytest.mark.training, pytest.mark.asyncio(loop_scope="session")]


def client(server: InferenceServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


async def test_models_and_health(server: InferenceServer) -> None:
    async with client(server) as ai, httpx.AsyncClient(base_url=server.url) as http:
        assert [model.id async for model in ai.models.list()] == [server.model_name]
        assert (await http.get("/health")).status_code == 200


async def test_an_answer_has_text_reason_and_usage(server: InferenceServer) -> None:
    async with client(server) as ai:
        answer = await ai.chat.completions.create(
            model=server.model_name, messages=ask("hello"), max_tokens=5, temperature=0
        )
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    # ChatML over bytes: <|im_start|> u s e r \n h e l l o <|im_end|> \n <|im_start|> a s s i s t a n t \n
    assert answer.usage.prompt_tokens == 1 + 5 + 5 + 1 + 1 + 1 + 9 + 1
    if answer.choices[0].finish_reason == "length":
        assert answer.usage.completion_tokens == 5
    else:
        assert answer.usage.completion_tokens <= 5


async def test_a_stream_says_the_same_as_a_whole_answer(server: InferenceServer) -> None:
    async with client(server) as ai:
        whole = await ai.chat.completions.create(
            model=server.model_name, messages=ask("tell"), max_tokens=24, temperature=0
        )
        stream = await ai.chat.completions.create(
            model=server.model_name,
            messages=ask("tell"),
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in deltas) == whole.choices[0].message.content
    assert deltas[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


async def test_prompts_answered_together_get_the_answers_they_get_alone(server: InferenceServer) -> None:
    prompts = ["a", "bb " * 9, "ccc", "the quick brown fox", "x" * 40, "?"]

    async def answer(ai: openai.AsyncOpenAI, text: str, limit: int) -> tuple[str | None, str]:
        reply = await ai.chat.completions.create(
            model=server.model_name, messages=ask(text), max_tokens=limit, temperature=0
        )
        return reply.choices[0].message.content, reply.choices[0].finish_reason

    async with client(server) as ai:
        # Different limits, so that the batch shrinks on the way.
        alone = [await answer(ai, text, 4 + 5 * i) for i, text in enumerate(prompts)]
        together = await asyncio.gather(*(answer(ai, text, 4 + 5 * i) for i, text in enumerate(prompts)))
    assert list(together) == alone
    assert len({text for text, _ in alone}) > 1, "the model must tell prompts apart for this test to mean anything"


async def test_a_seed_repeats_a_sampled_answer(server: InferenceServer) -> None:
    async def sampled(ai: openai.AsyncOpenAI, seed: int) -> str | None:
        reply = await ai.chat.completions.create(
            model=server.model_name, messages=ask("dice"), max_tokens=30, temperature=1.5, top_p=0.95, seed=seed
        )
        return reply.choices[0].message.content

    async with client(server) as ai:
        assert await sampled(ai, 7) == await sampled(ai, 7)
        assert len({await sampled(ai, seed) for seed in range(5)}) > 1


async def test_plain_completions(server: InferenceServer) -> None:
    async with client(server) as ai:
        reply = await ai.completions.create(model=server.model_name, prompt="once", max_tokens=3, temperature=0)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 4


async def test_an_unknown_model_is_not_found(server: InferenceServer) -> None:
    async with client(server) as ai:
        with pytest.raises(openai.NotFoundError) as caught:
            await ai.chat.completions.create(model="nope", messages=ask("hi"))
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.parametrize("limit", [CONTEXT, 10_000])
async def test_more_than_the_context_is_refused(server: InferenceServer, limit: int) -> None:
    async with client(server) as ai:
        with pytest.raises(openai.BadRequestError, match="context") as caught:
            await ai.chat.completions.create(model=server.model_name, messages=ask("hi"), max_tokens=limit)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="context"):
            await ai.chat.completions.create(model=server.model_name, messages=ask("long" * CONTEXT))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "JSON"),
        (b"[]", "body"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 2}', "n:"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": ["."]}', "tools"),
        (b'{"model": "m", "messages": [{"role": "robot", "content": "x"}]}', "role"),
    ],
)
async def test_a_bad_body_is_named_in_openais_form(server: InferenceServer, content: bytes, said: str) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        reply = await http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"]


async def test_messages_that_the_template_refuses(server: InferenceServer) -> None:
    async with client(server) as ai:
        with pytest.raises(openai.BadRequestError, match="no developers"):
            await ai.chat.completions.create(
                model=server.model_name, messages=[{"role": "developer", "content": "hi"}], max_tokens=2
            )


async def test_a_reader_who_leaves_does_not_hold_up_the_next(server: InferenceServer) -> None:
    async with client(server) as ai:
        stream = await ai.chat.completions.create(
            model=server.model_name, messages=ask("hi"), max_tokens=60, temperature=0, stream=True
        )
        await stream.close()
        reply = await ai.chat.completions.create(model=server.model_name, messages=ask("hi"), max_tokens=2)
    assert reply.choices


async def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(server: InferenceServer) -> None:
    async with client(server) as ai:
        whole = await ai.chat.completions.create(
            model=server.model_name, messages=ask("tell"), max_tokens=24, temperature=0
        )
        text = whole.choices[0].message.content or ""
        stop = text[5:7]
        cut = await ai.chat.completions.create(
            model=server.model_name, messages=ask("tell"), max_tokens=24, temperature=0, stop=[stop]
        )
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


async def test_a_given_text_is_scored_as_the_harness_asks_for_it(server: InferenceServer) -> None:
    """The request of lm-evaluation-harness' `local-completions` for log-likelihoods, with tokens as prompts."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        found = (await http.post("/tokenize", json={"model": server.model_name, "prompt": "hello"})).json()["tokens"]
        body = {"model": server.model_name, "prompt": [found, found[:3]], "max_tokens": 1, "temperature": 0}
        reply = (await http.post("/v1/completions", json={**body, "logprobs": 1, "echo": True, "seed": 1234})).json()
    first, second = (choice["logprobs"] for choice in sorted(reply["choices"], key=lambda choice: choice["index"]))
    # The harness sums token_logprobs[context:-1], and calls it greedy where each is the highest of top_logprobs.
    assert len(first["token_logprobs"]) == len(found) + 1 and first["token_logprobs"][0] is None
    assert all(value < 0 for value in first["token_logprobs"][1:])
    assert first["token_logprobs"][1:3] == pytest.approx(second["token_logprobs"][1:3], abs=1e-4)
    assert first["token_logprobs"][-1] == max(first["top_logprobs"][-1].values())


async def test_embeddings_have_length_one(server: InferenceServer) -> None:
    async with client(server) as ai:
        found = await ai.embeddings.create(model=server.model_name, input=["a", "a", "b"], encoding_format="float")
    one, same, other = (item.embedding for item in found.data)
    assert sum(x * x for x in one) == pytest.approx(1, abs=1e-5)
    assert one == same != other
