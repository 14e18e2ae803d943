"""`Reservoir` against a plain sorted list."""

from __future__ import annotations

import os
import random

import pytest
from sortedcontainers import SortedList

from tasker._pool.reservoir import Reservoir
from tests.support.quantiles import nearest_rank

QUANTILES = ["0", "0.01", "0.25", "0.5", "0.9", "0.95", "0.99", "0.999", "1"]


def filled(samples, capacity=20_000):
    reservoir = Reservoir(capacity)
    reservoir.extend(samples)
    return reservoir


def test_quantiles_of_no_samples_are_zero():
    assert Reservoir(10).quantile(0.95) == 0.0
    assert len(Reservoir(10)) == 0


def test_the_quantile_is_the_sample_of_the_nearest_rank():
    table = [  # samples, quantile, rank
        *((1, q, 1) for q in (0.0, 0.5, 0.95, 0.99, 1.0)),
        *((2, q, rank) for q, rank in ((0.5, 1), (0.51, 2), (0.95, 2), (0.99, 2))),
        *((10, q, rank) for q, rank in ((0.5, 5), (0.9, 9), (0.95, 10), (0.99, 10))),
        *((20, q, rank) for q, rank in ((0.05, 1), (0.95, 19), (0.99, 20))),
        *((100, q, rank) for q, rank in ((0.07, 7), (0.95, 95), (0.99, 99))),
        *((10_000, q, rank) for q, rank in ((0.0, 1), (0.95, 9_500), (0.99, 9_900), (1.0, 10_000))),
    ]
    for count, q, rank in table:
        samples = list(range(1, count + 1))
        random.Random(count).shuffle(samples)
        assert filled(samples).quantile(q) == rank, (count, q)


def test_every_quantile_of_every_number_of_samples_agrees_with_a_sorted_list():
    rng = random.Random(int(os.environ.get("TASKER_SEED", "1")))
    for count in [*range(1, 130), 999, 1000, 1001, 10_000]:
        samples = [rng.expovariate(1.0) for _ in range(count)]
        reservoir = filled(samples)
        for q in QUANTILES:
            assert reservoir.quantile(float(q)) == nearest_rank(samples, q), (count, q)


def test_it_is_bounded_and_the_oldest_leave_first():
    reservoir = Reservoir(100)
    for i in range(1_000):
        reservoir.extend([float(i)])
        assert len(reservoir) == min(i + 1, 100)
        assert reservoir.quantile(0) == max(0, i - 99)
        assert reservoir.quantile(1) == i
    assert len(reservoir._by_size) == 100


def test_of_more_samples_than_it_holds_the_newest_stay():
    reservoir = Reservoir(10)
    reservoir.extend([5.0] * 5)
    reservoir.extend([float(i) for i in range(100)])
    assert len(reservoir) == 10
    assert (reservoir.quantile(0), reservoir.quantile(1)) == (90.0, 99.0)


def test_equal_samples_are_told_apart_by_age():
    reservoir = Reservoir(4)
    for sample in (1.0, 1.0, 2.0, 2.0, 1.0):
        reservoir.extend([sample])
    assert list(reservoir._by_size) == [1.0, 1.0, 2.0, 2.0]


def test_random_histories_agree_with_a_sorted_list_of_the_newest():
    seed = int(os.environ.get("TASKER_SEED", "1"))
    rng = random.Random(seed)
    for _ in range(10):
        capacity = rng.choice([1, 2, 7, 50, 300])
        reservoir, history = Reservoir(capacity), []
        for _ in range(60):
            samples = [
                round(rng.expovariate(1.0), 1) for _ in range(rng.choice([0, 1, 1, 2, 5, 40, 400]))
            ]
            reservoir.extend(samples)
            history += samples
            newest = history[-capacity:]
            assert list(reservoir._by_size) == sorted(newest), f"seed {seed}"
            q = rng.choice(QUANTILES)
            assert reservoir.quantile(float(q)) == (nearest_rank(newest, q) if newest else 0.0), (
                f"seed {seed}"
            )


@pytest.mark.parametrize("method", ["add", "remove", "__init__"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("samples", [3, 60], ids=["inserting", "sorting afresh"])
def test_an_interrupt_in_the_middle_of_a_change_is_made_good_by_the_next(
    method, when, samples, monkeypatch
):
    reservoir, history = Reservoir(100), [float(i) for i in range(100)]
    random.Random(3).shuffle(history)
    reservoir.extend(history)
    original = getattr(SortedList, method)

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(SortedList, method, original)
        if when == "after":
            original(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(SortedList, method, interrupted)
    try:
        reservoir.extend([float(1000 + i) for i in range(samples)])
    except KeyboardInterrupt:
        pass
    else:
        assert method == "__init__" if samples == 3 else method != "__init__"
    monkeypatch.setattr(SortedList, method, original)
    for i in range(300):
        reservoir.extend([float(i)])
        assert len(reservoir._by_size) == len(reservoir) == 100
        assert list(reservoir._by_size) == sorted(reservoir._by_age)
