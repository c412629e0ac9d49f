"""Duplicates: what is removed, for which twin, at which threshold, held against the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from ltp.contracts.dedup import DedupAsk, Thresholds
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.dedup import methods
from services.dataset.dedup.cosine import TooManyPairsError, keep_first_above, pairs_above, unit_vectors
from services.dataset.dedup.methods import measure
from services.dataset.dedup.near import near_pairs
from services.dataset.dedup.pairs import keep_first
from services.dataset.dedup.texts import char_runs

STORY = "The quick brown fox jumps over the lazy dog while the cat sleeps near the warm stove in the kitchen"


def clusters(rows: int, size: int, noise: float, seed: int = 3) -> np.ndarray:
    """Originals and perturbed copies, shuffled."""
    random = np.random.default_rng(seed)
    base = random.standard_normal((rows // 2, size))
    copies = base[random.integers(0, len(base), rows - len(base))]
    copies = copies + noise * random.standard_normal(copies.shape)
    return np.concatenate([base, copies])[random.permutation(rows)].astype(np.float32)


def greedy(vectors: np.ndarray, threshold: float, protected: int = 0) -> list[int]:
    """The definition in float64: a row goes when an earlier row that stays is similar enough."""
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    kept: list[int] = []
    gone: list[int] = []
    for row in range(len(unit)):
        similar = row >= protected and kept and (unit[kept] @ unit[row]).max() >= threshold
        (gone if similar else kept).append(row)
    return gone


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("size", [2, 16, 384])
def test_semantic_removals_are_those_of_the_definition(size: int, threshold: float) -> None:
    vectors = clusters(1300, size, 0.4)
    unit = unit_vectors(vectors)
    expected = greedy(vectors, threshold)
    assert keep_first_above(unit, threshold).row.tolist() == expected
    if size > 2:  # in the plane everything is near everything
        assert keep_first(pairs_above(unit, threshold), len(unit)).row.tolist() == expected


def test_rows_of_the_reference_never_go_and_take_others_with_them() -> None:
    vectors = clusters(1300, 64, 0.3)
    unit = unit_vectors(vectors)
    expected = greedy(vectors, 0.9, protected=600)
    found = keep_first(pairs_above(unit, 0.9, protected=600), len(unit))
    assert found.row.tolist() == expected == keep_first_above(unit, 0.9, protected=600).row.tolist()
    assert min(expected) >= 600


def test_without_pairs_among_themselves_only_the_reference_counts() -> None:
    unit = unit_vectors(clusters(1300, 64, 0.3))
    pairs = pairs_above(unit, 0.9, protected=600, within=False)
    every = pairs_above(unit, 0.9, protected=600)
    across = every.where(every.earlier < 600)
    assert sorted(zip(pairs.later.tolist(), pairs.earlier.tolist(), strict=True)) == sorted(
        zip(across.later.tolist(), across.earlier.tolist(), strict=True)
    )
    assert len(across) < len(every)


def test_every_removed_row_has_a_twin_that_stays_with_a_true_score() -> None:
    vectors = clusters(1200, 32, 0.3)
    unit = unit_vectors(vectors).astype(np.float64)
    found = keep_first(pairs_above(unit_vectors(vectors), 0.9), len(vectors))
    assert not set(found.twin.tolist()) & set(found.row.tolist())
    assert np.allclose(np.einsum("ij,ij->i", unit[found.row], unit[found.twin]), found.score, atol=1e-6)
    assert (found.score >= 0.9).all()


def test_too_many_pairs_are_refused_rather_than_held() -> None:
    unit = unit_vectors(np.ones((2000, 8), np.float32))
    with pytest.raises(TooManyPairsError):
        pairs_above(unit, 0.9, max_pairs=10_000)
    assert len(keep_first_above(unit, 0.9)) == 1999


def test_a_cluster_too_large_is_removed_at_its_threshold_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(vectors: np.ndarray, floor: float, **options: object) -> object:
        return pairs_above(vectors, floor, max_pairs=100, **{k: v for k, v in options.items() if k != "max_pairs"})

    monkeypatch.setattr(methods, "pairs_above", few)
    texts = [f"{STORY} {i}" for i in range(300)]
    vectors = np.ones((300, 8)) + 0.01 * np.random.default_rng(1).standard_normal((300, 8))
    at = Thresholds(cosine=0.9)
    measured = measure("semantic", texts, vectors, Thresholds(cosine=0.8), at)
    assert measured.fixed is not None and measured.floor == at
    assert measured.removals(at).row.tolist() == list(range(1, 300))


def test_thresholds_move_without_measuring_again() -> None:
    vectors = clusters(800, 48, 0.35)
    texts = [f"text {i}" for i in range(len(vectors))]
    measured = measure("semantic", texts, vectors, Thresholds(cosine=0.8), Thresholds(cosine=0.9))
    for threshold in (0.8, 0.85, 0.93, 0.99):
        assert measured.removals(Thresholds(cosine=threshold)).row.tolist() == greedy(vectors, threshold)


def test_copies_are_compared_once_and_go_with_their_text() -> None:
    texts = ["a b c", "d e f", "a b c", "almost d e f", "almost d e f", ""]
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0.05, 1], [0.05, 1], [0, 0]], np.float32)
    found = measure("semantic", texts, vectors, Thresholds(cosine=0.9), Thresholds(cosine=0.9))
    removals = found.removals(Thresholds(cosine=0.9))
    assert list(zip(removals.row.tolist(), removals.twin.tolist(), strict=True)) == [(2, 0), (3, 1), (4, 1)]


def test_exact_is_blind_to_case_width_and_space_and_to_nothing_else() -> None:
    texts = ["Hello  World", "hello world", "ＨＥＬＬＯ world\n", "hello world!", "hello"]
    at = Thresholds()
    removals = measure("exact", texts, None, at, at).removals(at)
    assert removals.row.tolist() == [1, 2] and removals.twin.tolist() == [0, 0]


def test_near_finds_edited_texts_with_their_exact_jaccard() -> None:
    texts = [
        STORY,
        STORY.replace("lazy", "sleepy"),
        "Something else entirely, of about the same length as that story is.",
    ]
    pairs = near_pairs(texts, 0.6)
    one, other = (set(char_runs(text).tolist()) for text in texts[:2])
    assert pairs.later.tolist() == [1] and pairs.earlier.tolist() == [0]
    assert pairs.score[0] == len(one & other) / len(one | other)


def test_combined_wants_both() -> None:
    at = Thresholds(cosine=0.85, jaccard=0.6)
    texts = [STORY, f"{STORY} again", "Nothing of the kind is said here, and yet its vector is the same one."]
    vectors = np.array([[1, 0.1], [1, 0], [1, 0.1]], np.float32)
    assert measure("combined", texts, vectors, at, at).removals(at).row.tolist() == [1]
    assert measure("semantic", texts, vectors, at, at).removals(at).row.tolist() == [1, 2]


def test_empty_and_huge_texts_do_no_harm() -> None:
    texts = ["", " ", "x", "x" * 300_000, "x" * 300_001]
    pairs = near_pairs(texts, 0.6)
    assert (4, 3) in set(zip(pairs.later.tolist(), pairs.earlier.tolist(), strict=True))
    assert not {0, 1} & (set(pairs.later.tolist()) | set(pairs.earlier.tolist()))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_no_vector_is_named(value: float) -> None:
    vectors = np.ones((10, 4), np.float32)
    vectors[6, 2] = value
    with pytest.raises(LtpError, match="row 7") as caught:
        unit_vectors(vectors)
    assert caught.value.code is ErrorCode.VECTORS_INVALID


def test_thresholds_outside_their_range_are_refused_at_the_door() -> None:
    for wrong in ({"cosine": 0}, {"cosine": 1.01}, {"jaccard": -1}, {"cosine": float("nan")}):
        with pytest.raises(ValueError, match="thresholds"):
            DedupAsk.model_validate({"thresholds": wrong})
    with pytest.raises(ValueError, match=r"from a Jaccard index of 0\.6"):
        DedupAsk.model_validate({"method": "near", "thresholds": {"jaccard": 0.4}})
