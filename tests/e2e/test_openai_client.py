"""OpenAI's own Python client, unmodified, trains a tiny model on us, follows it, and talks with the result."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from tests.e2e.platform import Platform, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.training]


@pytest.fixture(scope="module")
def client(platform: Platform) -> openai.OpenAI:
    url = platform.json("status")["urls"]["gateway"]
    token = (platform.data / "secrets" / "token").read_text().strip()
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, timeout=400)


@pytest.fixture(scope="module")
def file_id(client: openai.OpenAI, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("openai") / "sums.jsonl"
    rows = [(f"{a} + {b}", str(a + b)) for a in range(5) for b in range(4)]
    with path.open("w") as file:
        for question, answer in rows:
            talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": talk}) + "\n")
    made = client.files.create(file=path, purpose="fine-tune")
    assert made.filename == "sums.jsonl" and made.bytes == path.stat().st_size
    return str(made.id)


def test_the_client_trains_a_model_and_talks_with_it(client: openai.OpenAI, file_id: str, model: Path) -> None:
    job = client.fine_tuning.jobs.create(
        model=str(model),
        training_file=file_id,
        suffix="sums",
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 100}},
        },
    )
    assert job.status == "validating_files" and job.id.startswith("ftjob-")
    found = eventually(lambda: _over(client, job.id), seconds=400)
    assert found.status == "succeeded", found.error
    assert found.fine_tuned_model and found.finished_at
    assert client.files.retrieve(file_id).status == "processed"
    assert next(iter(client.fine_tuning.jobs.list(limit=1))).id == job.id
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert {"message", "metrics"} <= {event.type for event in events}
    assert len({event.id for event in events}) == len(events) > 4
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [c.step_number for c in checkpoints] == [2]
    assert found.fine_tuned_model in {m.id for m in client.models.list()}
    talk = [{"role": "user", "content": "1 + 2"}]
    for name in (found.fine_tuned_model, checkpoints[0].fine_tuned_model_checkpoint):
        answer = client.chat.completions.create(model=name, messages=talk, max_tokens=4)
        assert answer.model == name and answer.choices[0].finish_reason in {"stop", "length"}
    parts = list(client.chat.completions.create(model=name, messages=talk, max_tokens=4, stream=True))
    assert parts[-1].choices[0].finish_reason in {"stop", "length"} and parts[0].model == name


def test_a_job_is_paused_resumed_and_cancelled(client: openai.OpenAI, file_id: str, model: Path) -> None:
    job = client.fine_tuning.jobs.create(
        model=str(model), training_file=file_id, hyperparameters={"n_epochs": 500, "batch_size": 8}
    )
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running", seconds=300)
    client.fine_tuning.jobs.pause(job.id)
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "paused", seconds=200)
    client.fine_tuning.jobs.resume(job.id)
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status in {"queued", "running"}, seconds=60)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "cancelled", seconds=120)


def test_what_cannot_be_done_is_refused_in_openais_words(client: openai.OpenAI, file_id: str, model: Path) -> None:
    grader = {"type": "python", "name": "g", "source": "def grade(): ..."}
    for method in (
        {"type": "reinforcement", "reinforcement": {"grader": grader}},
        {"type": "dpo", "dpo": {"hyperparameters": {"beta": -1}}},
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model=str(model), training_file=file_id, method=method)
        assert refused.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model="no-such-model", training_file=file_id)
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model=str(model), training_file="file-nope")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="ft:x::00000000000000000000000000000000", messages=[])
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=client.base_url, api_key="sk-wrong", max_retries=0).models.list()
    bad = client.files.create(file=("bad.jsonl", b'{"messages": "none"}\n'), purpose="fine-tune")
    eventually(lambda: client.files.retrieve(bad.id).status == "error")
    job = client.fine_tuning.jobs.create(model=str(model), training_file=bad.id)
    found = eventually(lambda: _over(client, job.id))
    assert found.status == "failed" and found.error and found.error.message


def _over(client: openai.OpenAI, job_id: str) -> object:
    job = client.fine_tuning.jobs.retrieve(job_id)
    return job if job.status in {"succeeded", "failed", "cancelled"} else None
