"""Overrides survive Hydra's grammar whatever they contain."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltp.core.errors import LtpError
from ltp.verl_recipe.hydra import overrides, render


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-05, "1e-05"),
        ("plain", "'plain'"),
        ("it's", r"'it\'s'"),
        ("ends\\", r"'ends\\'"),
        ("${oc.env:HOME}", r"'\${oc.env:HOME}'"),
        (["console", "file"], "['console','file']"),
        ({"param_dtype": "fp32"}, "{param_dtype:'fp32'}"),
    ],
)
def test_renders_each_type(value: object, expected: str) -> None:
    assert render(value) == expected  # type: ignore[arg-type]


def test_refuses_what_is_no_number() -> None:
    with pytest.raises(LtpError, match="nan"):
        render(math.nan)


def test_overrides_use_the_table_and_refuse_unknown_settings() -> None:
    assert list(overrides({"lr": "optim.lr"}, {"lr": 0.5})) == ["optim.lr=0.5"]
    with pytest.raises(KeyError):
        list(overrides({}, {"lr": 0.5}))


@given(st.text(alphabet=st.sampled_from("a '\\${}=,[]\"")))
def test_a_quote_never_ends_the_string_early(text: str) -> None:
    body = render(text)[1:-1]
    assert not re.search(r"(?<!\\)(\\\\)*'", body)
    assert not re.search(r"(?<!\\)(\\\\)*\\$", body)
