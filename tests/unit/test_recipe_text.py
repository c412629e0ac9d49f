"""A recipe as a person writes it, and mis-writes it."""

from __future__ import annotations

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.recipe_text import parse_recipe

GOOD = """\
name: sums
model: {path: /m}
dataset: {name: sums}
training:
  steps: 3
  batch_size: 4
  learning_rate: 1e-4
"""


def refused(text: str) -> LtpError:
    with pytest.raises(LtpError) as caught:
        parse_recipe(text, "r.yaml")
    assert caught.value.hint
    return caught.value


def test_a_good_recipe_has_its_defaults_spelt_out() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.algorithm == "sft"
    assert recipe.training.learning_rate == pytest.approx(1e-4)  # YAML 1.1 reads 1e-4 as text
    assert parse_recipe(GOOD).hash() == recipe.hash()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (GOOD + "  steps: [1\n", "line 9"),
        (GOOD + "\tx: 1\n", "line 8, column 1"),
        (GOOD + "name: again\n", "line 8, column 1: key 'name' is given twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
    ],
)
def test_malformed_yaml_is_refused_with_its_place(text: str, place: str) -> None:
    error = refused(text)
    assert error.code is ErrorCode.INVALID_YAML
    assert place in error.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps: 3", "stepz: 3"), "line 5, column 3: training.stepz: unknown key"),
        (("steps: 3", "steps: -3"), "line 5, column 3: training.steps: Input should be greater than 0"),
        (("steps: 3", "steps: many"), "line 5, column 3: training.steps"),
        (("name: sums\n", ""), "name: missing"),
        (("model: {path: /m}", "model: {path: ''}"), "line 2, column 9: model.path"),
        (("name: sums\nmodel", "name: ../etc\nmodel"), "line 1, column 1: name"),
        (("name: sums\nmodel", "name: sums\nalgorithm: grpo\nmodel"), "needs a section 'reinforcement'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(change: tuple[str, str], said: str) -> None:
    error = refused(GOOD.replace(*change))
    assert error.code is ErrorCode.INVALID_RECIPE
    assert said in error.message


@pytest.mark.parametrize("text", ["", "- 1\n", "hello", "null"])
def test_what_is_no_mapping_is_no_recipe(text: str) -> None:
    assert refused(text).code is ErrorCode.INVALID_RECIPE


def test_a_huge_text_is_refused_before_it_is_parsed() -> None:
    assert refused("a" * (1 << 21)).code is ErrorCode.TOO_LARGE
