"""Log-probabilities in blocks are what verl computes a token at a time, gradients too, where a block ends in between."""

from __future__ import annotations

import pytest


@pytest.mark.training
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_are_what_verl_computes(precision: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("verl")
    from ltp_verl.label_logprobs import label_logprobs

    torch.manual_seed(0)
    logits = torch.randn(1500, 53, dtype=getattr(torch, precision), requires_grad=True)
    labels = torch.randint(0, 53, (1500,))
    expected = torch.stack([
        logit[label] - torch.logsumexp(logit, -1) if precision == "float32" else torch.log_softmax(logit, -1)[label]
        for logit, label in zip(logits, labels, strict=True)
    ])  # fmt: skip
    weights = torch.arange(1500)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), logits)
    found = label_logprobs(logits, labels)
    (got,) = torch.autograd.grad((found * weights).sum(), logits)
    assert torch.equal(found, expected) and torch.allclose(got, wanted)
    assert label_logprobs(logits.view(3, 500, 53), labels.view(3, 500)).shape == (3, 500)
