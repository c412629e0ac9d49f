"""Leaks: evaluation rows that stand in training rows, and phrases that only look like it."""

from __future__ import annotations

from services.dataset.dedup.shared_words import shared_words

QUESTION = (
    "A train leaves Vienna at nine and reaches Graz at half past eleven, how long does the journey take in minutes?"
)


def test_a_copied_question_is_found_with_its_training_row() -> None:
    training = ["Something else.", f"Please solve this. {QUESTION} Think step by step.", QUESTION.upper()]
    matches = shared_words(training, ["Unrelated words about cooking rice with a lid on.", QUESTION], 8, 0.5)
    assert [(m.evaluation, m.training, m.method) for m in matches] == [(1, 2, "exact")]
    matches = shared_words(training[:2], [QUESTION], 8, 0.5)
    assert [(m.training, m.method, m.overlap) for m in matches] == [(1, "words", 1.0)]


def test_a_small_share_is_no_leak_until_asked_for() -> None:
    training = ["A train leaves Vienna at nine and reaches Linz, which is another story."]
    assert shared_words(training, [QUESTION], 8, 0.5) == []
    assert shared_words(training, [QUESTION], 4, 0.2)[0].training == 0


def test_an_instruction_common_to_all_rows_is_no_leak() -> None:
    instruction = "Answer the following question with a single number and nothing else at all please:"
    training = [f"{instruction} What is {i} plus {i}?" for i in range(200)]
    evaluation = [
        f"{instruction} Say how many legs {word} creatures of the sea have on average" for word in map(str, range(200))
    ]
    assert shared_words(training, evaluation, 8, 0.5) == []


def test_short_and_empty_rows() -> None:
    matches = shared_words(["2 + 2", "", "capital of France"], ["2 + 2", "", "capital of Spain"], 8, 0.5)
    assert [(m.evaluation, m.training, m.method) for m in matches] == [(0, 0, "exact")]
