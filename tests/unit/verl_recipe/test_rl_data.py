"""What the platform exchanges in verl's data plane gives the same numbers, and hands a trainer no objects it never reads."""

from __future__ import annotations

import asyncio
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.training
LENGTHS = [(3, 4), (5, 1), (2, 6), (4, 2)]


@pytest.fixture
def verl_padding() -> Any:
    """verl's own module, read anew beside the one that has been changed."""
    pytest.importorskip("verl")
    from verl.workers.utils import padding

    spec = importlib.util.spec_from_file_location("padding_as_shipped", str(padding.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _nested(parts: list[Any]) -> Any:
    import torch

    return torch.nested.as_nested_tensor(parts, layout=torch.jagged)


@pytest.mark.parametrize("longest", [-1, 9])
@pytest.mark.parametrize("width", [(), (3,)])
def test_padded_responses_are_verls_own_and_so_are_their_gradients(
    verl_padding: Any, longest: int, width: tuple[int, ...]
) -> None:
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils

    from ltp_verl.rl_data import padded_responses

    prompts, responses = (_nested([torch.zeros(pair[i]) for pair in LENGTHS]) for i in (0, 1))
    data = TensorDict({"prompts": prompts, "responses": responses}, batch_size=[len(LENGTHS)])
    tensordict_utils.assign_non_tensor(data, max_response_len=longest)
    torch.manual_seed(0)
    values = torch.randn(sum(map(sum, LENGTHS)), *width)
    mine, theirs = (values.clone().requires_grad_() for _ in range(2))
    found, wanted = padded_responses(mine, data), verl_padding.no_padding_2_padding(theirs, data)
    weights = torch.randn_like(wanted)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.equal(found, wanted)
    assert mine.grad is not None and theirs.grad is not None and torch.equal(mine.grad, theirs.grad)


def test_responses_of_nested_values_are_verls_own(verl_padding: Any) -> None:
    import torch

    from ltp_verl.rl_data import responses_of

    torch.manual_seed(0)
    values, mask = _nested([torch.randn(p + r) for p, r in LENGTHS]), _nested([torch.ones(r) for _, r in LENGTHS])
    found, wanted = responses_of(values, mask), verl_padding.response_from_nested(values, mask)
    assert torch.equal(found.values(), wanted.values()) and torch.equal(found.offsets(), wanted.offsets())


@pytest.mark.parametrize(
    ("noted", "left"),
    [
        ({"temperature": 1.0}, {"input_ids", "advantages", "multi_modal_inputs"}),
        ({"compute_loss": False, "mini_batch_size": 8}, {"input_ids", "advantages", "multi_modal_inputs"}),
        # Scoring: no loss is computed.
        ({"compute_loss": False}, {"input_ids", "multi_modal_inputs"}),
    ],
)
def test_a_trainer_gets_the_tensors_that_its_pass_reads(
    monkeypatch: pytest.MonkeyPatch, noted: dict[str, Any], left: set[str]
) -> None:
    pytest.importorskip("verl")
    import numpy as np
    from transfer_queue.metadata import BatchMeta

    from ltp_verl import rl_data

    names = {
        "input_ids": False,
        "advantages": False,
        "raw_prompt": True,
        "extra_info": True,
        "multi_modal_inputs": True,
    }
    schema = {name: {"is_non_tensor": plain, "dtype": None, "shape": None} for name, plain in names.items()}

    async def retrieved(meta: Any) -> Any:
        return BatchMeta([7, 8], ["train", "train"], schema, np.ones(2, dtype=np.int8), meta.extra_info)

    monkeypatch.setattr(rl_data, "_all_of", retrieved)
    # verl's trainer hands on a handle that names all fields there are.
    found = asyncio.run(rl_data.tensors_of(SimpleNamespace(fields=list(names), extra_info=noted)))
    assert set(found.field_names) == left
    assert (found.global_indexes, found.extra_info) == ([7, 8], noted)
