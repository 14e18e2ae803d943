"""tqdm's `thread_map` on the drop-in: its bar moves with each call."""

from __future__ import annotations

import concurrent.futures
import io

import pytest

from tasker import ThreadPoolExecutor

concurrent_tqdm = pytest.importorskip("tqdm.contrib.concurrent")
tqdm = pytest.importorskip("tqdm")


@pytest.mark.parametrize("chunksize", [1, 5])
def test_the_bar_is_full_when_all_is_done(monkeypatch, chunksize):
    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # or it starts a thread that stays
    text = io.StringIO()
    results = concurrent_tqdm.thread_map(
        str, range(20), max_workers=2, chunksize=chunksize, file=text, tqdm_class=tqdm.tqdm
    )
    assert results == [str(number) for number in range(20)]
    assert "20/20" in text.getvalue()
