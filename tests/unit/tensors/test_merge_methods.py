"""Merge methods against their definitions written out naively, and what must not depend on how the work is cut."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ltp.core.merging import METHODS, Scope, evaluate
from ltp.tensors.counter_rng import draws, key_of
from ltp.tensors.methods import MODULES, inputs, merge_of
from ltp.tensors.methods.inputs import Settings
from tests.unit.tensors.in_memory import InMemory, whole


def settings(method: str, count: int, **given: Any) -> Settings:
    """Defaults, with what is given: a list for each input, else shared."""
    parameters = METHODS[method].parameters
    shared = {p.name: p.default for p in parameters if p.scope is Scope.SHARED}
    each: list[dict[str, Any]] = [
        {p.name: p.default for p in parameters if p.scope is not Scope.SHARED} for _ in range(count)
    ]
    for name, value in given.items():
        if isinstance(value, list):
            for own, one in zip(each, value, strict=True):
                own[name] = one
        else:
            shared[name.rstrip("_")] = value
    return Settings(shared, each)


def merge(method: str, tensors: list[Any], *, base: int | None = None, seed: int = 0, **given: Any) -> Any:
    there = InMemory(tensors, base=base, seed=seed)
    return whole(there, merge_of(method)(there, settings(method, len(tensors), **given)))


@pytest.fixture
def models() -> list[Any]:
    """A base and three relatives, float32, of a width that no piece divides evenly."""
    torch.manual_seed(5)
    base = torch.randn(40, 33)
    return [base, *(base + 0.1 * torch.randn(40, 33) for _ in range(3))]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "PIECE", 100)


def test_every_method_has_a_function_and_every_function_its_paper() -> None:
    assert set(MODULES) == set(METHODS)
    assert all(merge_of(method).__doc__ for method in MODULES)


def test_linear_is_the_weighted_mean(models: list[Any]) -> None:
    expected = (models[0] * 1 + models[1] * 2 + models[2] * 3) / 6
    assert torch.allclose(merge("linear", models[:3], weight=[1.0, 2.0, 3.0]), expected, atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_slerp_goes_along_the_arc(models: list[Any], t: float) -> None:
    a, b = torch.randn(40, 33), torch.randn(40, 33)
    angle = torch.acos((a * b).sum().double() / (a.norm().double() * b.norm().double()))
    expected = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    assert torch.allclose(merge("slerp", [a, b], base=0, t=t), expected.float(), atol=1e-5)
    # Nearly parallel: a straight line.
    near = a * 1.0001
    assert torch.allclose(merge("slerp", [a, near], base=0, t=t), a * (1 - t) + near * t, atol=1e-5)


def test_task_arithmetic_adds_weighted_differences(models: list[Any]) -> None:
    base, one, two, _ = models
    expected = base + 0.5 * (0.3 * (one - base) - 0.2 * (two - base))
    found = merge("task_arithmetic", models[:3], base=0, weight=[0.0, 0.3, -0.2], lambda_=0.5)
    assert torch.allclose(found, expected, atol=1e-6)


def naive_ties(models: list[Any], weights: list[float], densities: list[float]) -> Any:
    base, *others = models
    deltas = []
    for model, weight, density in zip(others, weights, densities, strict=True):
        delta = (model - base).flatten()
        keep = sorted(range(delta.numel()), key=lambda i: (-abs(float(delta[i])), i))[: int(density * delta.numel())]
        mask = torch.zeros_like(delta)
        mask[keep] = 1
        deltas.append((delta * mask * weight).view_as(base))
    stack = torch.stack(deltas)
    sign = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    agree = (stack.sign() == sign).float()
    share = (agree * torch.tensor(weights)[:, None, None]).sum(0)
    return base + (stack * agree).sum(0) / torch.where(share == 0, 1.0, share)


def test_ties_trims_elects_and_merges(models: list[Any]) -> None:
    weights, densities = [0.5, 0.3, 0.7], [0.2, 0.5, 1.0]
    found = merge("ties", models, base=0, weight=[0.0, *weights], density=[1.0, *densities])
    assert torch.allclose(found, naive_ties(models, weights, densities), atol=1e-5)


def test_tied_magnitudes_are_kept_in_the_order_of_their_index() -> None:
    base = torch.zeros(3, 100)
    model = torch.ones(3, 100).bfloat16().float()
    model[0, :10] = 2
    found = merge("ties", [base, model], base=0, weight=[0.0, 1.0], density=[1.0, 0.5], normalize=False)
    assert int((found != 0).sum()) == 150 and bool((found.flatten()[:150] != 0).all())
    half = merge("ties", [base.bfloat16(), model.bfloat16()], base=0, weight=[0.0, 1.0], density=[1.0, 0.5])
    assert int((half != 0).sum()) == 150 and bool((half.flatten()[:150] != 0).all())


def test_breadcrumbs_drops_the_largest_and_the_smallest() -> None:
    base, model = torch.zeros(1, 100), torch.arange(1.0, 101.0).view(1, 100)
    found = merge("breadcrumbs", [base, model], base=0, weight=[0.0, 1.0], density=[1.0, 0.5], gamma=[0.0, 0.1])
    assert found.flatten().nonzero().flatten().tolist() == list(range(40, 90))


def test_dare_keeps_the_share_it_should_and_the_norm() -> None:
    torch.manual_seed(1)
    base = torch.zeros(500, 400)
    model = torch.randn(500, 400)
    for density in (0.1, 0.5, 0.9):
        found = merge("dare_linear", [base, model], base=0, weight=[0.0, 1.0], density=[1.0, density], seed=7)
        kept = int((found != 0).sum())
        spread = (200_000 * density * (1 - density)) ** 0.5
        assert abs(kept - 200_000 * density) < 4 * spread
        assert float(found.abs().sum()) == pytest.approx(float(model.abs().sum()), rel=1e-4)
    other = merge("dare_linear", [base, model], base=0, weight=[0.0, 1.0], density=[1.0, 0.9], seed=8)
    assert not torch.equal(found, other)


def test_draws_depend_on_the_element_alone() -> None:
    key = key_of(7, "weight", 1)
    everything = draws(key, 0, 5000)
    for start, stop in ((0, 1), (3, 40), (16, 4096), (4999, 5000)):
        assert torch.equal(draws(key, start, stop), everything[start:stop])
    assert not torch.equal(draws(key_of(7, "weight", 2), 0, 5000), everything)
    assert float(everything.min()) >= 0 and float(everything.max()) < 65536
    assert float(everything.mean()) == pytest.approx(32767.5, rel=0.03)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_size_of_the_pieces_does_not_matter(
    method: str, models: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = {"slerp": 2, "nearswap": 2, "passthrough": 1, "nuslerp": 2}.get(method, 4)
    base = 0 if METHODS[method].needs_base else None
    given: dict[str, Any] = {"t": 0.3} if method in {"slerp", "nearswap"} else {}
    if METHODS[method].parameter("weight"):
        given["weight"] = [0.4, 0.6, 0.3, 0.2][:count]
    if METHODS[method].parameter("density"):
        given["density"] = [1.0, 0.5, 0.4, 0.6]
    if method == "sce":
        given["select_topk"] = 0.5
    found = []
    for piece in (33, 100, 1 << 18):
        monkeypatch.setattr(inputs, "PIECE", piece)
        found.append(merge(method, models[:count], base=base, **given))
    assert all(torch.allclose(found[0], other, atol=1e-5) for other in found[1:])
    assert found[0].shape == models[0].shape and bool(torch.isfinite(found[0]).all())


def test_opposite_models_have_no_mean_direction() -> None:
    from ltp.core.errors import LtpError

    one = torch.randn(4, 5)
    two = torch.randn(4, 5)
    with pytest.raises(LtpError, match="cancel out"):
        merge("multislerp", [one, -one, two, -two], weight=[0.25, 0.25, 0.25, 0.25], eps=1e-4)


def test_settings_by_filter_and_by_gradient() -> None:
    t = METHODS["slerp"].parameter("t")
    assert t is not None
    rules = [{"filter": "mlp", "value": [0, 1]}, {"filter": "norm", "value": 0.1}, {"value": "5e-1"}]
    assert evaluate(t, rules, "layers.0.mlp.up", 0.25) == 0.25
    assert evaluate(t, rules, "layers.0.norm", 0.25) == 0.1
    assert evaluate(t, rules, "other", 0.9) == 0.5
    assert evaluate(t, [0, 0.5, 0.3, 0.7, 1], "x", 1 / 8) == 0.25
    assert evaluate(t, [{"filter": "mlp", "value": 1}], "x", 0) is None
