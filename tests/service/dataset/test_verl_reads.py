"""verl's own dataset classes read a frozen split as it is: the SFT one and the RL one, from the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.dataset.ingest import SourceFile, freeze

pytestmark = pytest.mark.training

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTION, ANSWER = "How much is two and two?", "It is four"


@pytest.fixture
def tokenizer() -> Any:
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    pytest.importorskip("verl")
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<end>", "<user>", "<assistant>", "<system>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([], tokenizers.trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<end>", chat_template=TEMPLATE
    )


@pytest.fixture
def split(tmp_path: Path) -> Path:
    source = tmp_path / "rows.jsonl"
    source.write_text(
        f'{{"id": "a", "prompt": "{QUESTION}", "response": "{ANSWER}", "answer": "4"}}\n'
        '{"id": "b", "prompt": "And three and three?", "response": "Six", "answer": 6}\n'
    )
    versions = tmp_path / "versions"
    frozen = freeze([SourceFile(source, source.name)], name="sums", holdout=0, versions_dir=versions, owner="test")
    return frozen.splits["train"].path


def test_sft_dataset_trains_on_the_response_alone(split: Path, tokenizer: Any) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    config = OmegaConf.create({"max_length": 256, "pad_mode": "no_padding", "truncation": "error"})
    dataset = MultiTurnSFTDataset(str(split), tokenizer, config)
    texts = []
    for item in (dataset[index] for index in range(len(dataset))):
        trained = item["input_ids"][item["loss_mask"].bool()]
        texts.append((tokenizer.decode(item["input_ids"]), tokenizer.decode(trained)))
    assert (f"<user>{QUESTION}<end><assistant>{ANSWER}<end>", f"{ANSWER}<end>") in texts
    assert len(texts) == 2


def test_rlhf_dataset_finds_prompt_and_ground_truth(split: Path, tokenizer: Any, tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    config = OmegaConf.create(
        {"cache_dir": str(tmp_path / "cache"), "max_prompt_length": 128, "filter_overlong_prompts_workers": 1}
    )
    dataset = RLHFDataset(str(split), tokenizer, config)
    items = {dataset[index]["extra_info"]["id"]: dataset[index] for index in range(len(dataset))}
    assert items["a"]["raw_prompt"] == [{"role": "user", "content": QUESTION}]
    assert items["a"]["reward_model"] == {"style": "rule", "ground_truth": "4"}
    assert items["b"]["reward_model"]["ground_truth"] == "6" and items["b"]["data_source"] == "sums"
    assert sorted(collate_fn([*items.values()])["index"]) == [0, 1]
