"""more-executors puts its layers around the drop-in: each gives back futures of its own, made from ours."""

from __future__ import annotations

import pytest

from tasker import ThreadPoolExecutor
from tests.support.waiting import PATIENCE

Executors = pytest.importorskip("more_executors").Executors


def test_a_failed_call_is_tried_again_by_their_layer_and_not_by_ours():
    tries = []

    def fails_once():
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        return "done"

    with Executors.with_retry(ThreadPoolExecutor(2), max_attempts=3, sleep=0.01) as pool:
        assert pool.submit(fails_once).result(PATIENCE) == "done"
    assert len(tries) == 2


def test_its_layers_map_and_throttle():
    layered = Executors.with_throttle(Executors.with_map(ThreadPoolExecutor(2), str), 1)
    with layered as pool:
        futures = [pool.submit(pow, 2, number) for number in range(10)]
        assert [future.result(PATIENCE) for future in futures] == [
            str(2**number) for number in range(10)
        ]
