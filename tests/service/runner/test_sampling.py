"""The CPU rollout draws what the model says and reports the probabilities the trainer would compute."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.training


def test_padding_changes_no_probability(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from ltp_verl.sampling import Request, SamplingRule, sample_batch
    from tests.tiny_model import write_tiny_model

    write_tiny_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    rule = SamplingRule(temperature=1.0, top_p=1.0, top_k=-1)
    requests = [Request([5, 6, 7], 6, rule), Request([9] * 9, 10, rule)]
    for request, sample in zip(requests, sample_batch(model, requests, rule, {10_000}), strict=True):
        assert len(sample.token_ids) == request.max_tokens
        whole = torch.tensor([request.prompt_ids + sample.token_ids])
        expected = model(whole).logits[0].log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
        drawn = expected.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        assert sample.log_probs == pytest.approx(drawn.tolist(), abs=1e-5)


def test_rules_narrow_the_choice() -> None:
    import torch

    from ltp_verl.sampling import SamplingRule, draw

    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for rule in (SamplingRule(0.0, 1.0, -1), SamplingRule(1.0, 0.5, -1), SamplingRule(1.0, 1.0, 1)):
        token, _ = draw(logits, rule)
        assert token.tolist() == [1]


def test_an_end_token_ends_a_sample(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from ltp_verl.sampling import Request, SamplingRule, sample_batch
    from tests.tiny_model import write_tiny_model

    write_tiny_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    greedy = SamplingRule(temperature=0.0, top_p=1.0, top_k=-1)
    free = sample_batch(model, [Request([1, 2], 4, greedy)], greedy, {10_000})[0]
    ended = sample_batch(model, [Request([1, 2], 4, greedy)], greedy, {free.token_ids[0]})[0]
    assert ended.token_ids == free.token_ids[:1]
