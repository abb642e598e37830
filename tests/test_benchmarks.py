"""Every benchmark runs, at toy size, so that none can rot."""

import importlib
import math
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch, tmp_path_factory):
    monkeypatch.syspath_prepend(str(HERE))
    import pictures

    monkeypatch.setattr(pictures, "ROOT", tmp_path_factory.getbasetemp() / "benchmarks")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["loading", "training", "step", "tta", "epoch", "memory", "run"])
def test_benchmark_answers_every_question_it_asks(name):
    bench = importlib.import_module(f"bench_{name}")
    measured = bench.measure("toy")
    assert set(measured) == set(bench.QUESTIONS)
    for title, question in bench.QUESTIONS.items():
        figures = measured[title]
        assert "bonelib" in figures and all(math.isfinite(value) for value in figures.values())
        assert question.unit == "MB" or min(figures.values()) >= 0  # a difference of memory may be a little below
        assert "plain" in figures or "plain" not in question.at_least


def test_ratios_are_to_the_credit_of_the_faster_whatever_the_unit():
    from side_by_side import Question, summary, verdicts

    rounds = [{"a": {"bonelib": v, "plain": 2.0, "x": 5.0}, "b": {"bonelib": v, "plain": 2.0}} for v in (4.0, 8.0, 6.0)]
    found = summary(rounds, {"a": Question("images/s", {"plain": 3, "best peer": 2}), "b": Question("s", at_most=5)})
    assert found["a"]["ratios"]["plain"] == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert found["b"]["ratios"]["plain"]["median"] == pytest.approx(1 / 3)
    assert dict(verdicts(found["a"])) == {"at least 3 times plain": "met", "at least 2 times best peer": "NOT met"}
    assert dict(verdicts(found["b"])) == {"at most 5 s": "NOT met"}


def test_peer_that_is_not_installed_is_named_and_left_out(monkeypatch, capsys):
    import bench_loading

    monkeypatch.setattr(bench_loading, "LOADERS", {"missing package": None, **bench_loading.LOADERS})
    monkeypatch.setattr(bench_loading, "process", lambda name: pytest.fail(f"{name} was run"))
    monkeypatch.setattr(bench_loading.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench_loading, "OURS", ())
    bench_loading.measure("toy")
    assert "missing package: not installed" in capsys.readouterr().out
