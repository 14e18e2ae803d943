"""`TaskManager.map` against a plain loop, for random items, errors, chunks, windows and orders.

`TASKER_STRESS_SECONDS` sets about how long that takes (default 2), `TASKER_STRESS_SEED` repeats a run. The seed is
printed."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed; the extra `dev` brings it")

from hypothesis import Phase, configuration, given, seed, settings
from hypothesis import strategies as st

from tasker import Config, TaskManager
from tests.support.errors import Sick
from tests.support.recording import Factory, Log, Resource
from tests.support.waiting import PATIENCE

SECONDS = float(os.environ.get("TASKER_STRESS_SECONDS", "2"))
SEED = int(os.environ.get("TASKER_STRESS_SEED", str(random.SystemRandom().randrange(10**6))))
LONGEST_CHUNK = 4
MOST_SICK = 2  # times that an item breaks its resource, unless for ever
MAX_RETRIES = LONGEST_CHUNK * MOST_SICK  # a chunk's items share them
FOR_EVER = 10**6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240 + 20 * SECONDS),  # making a failing program shorter takes a while
    pytest.mark.usefixtures("no_pauses"),
]


@pytest.fixture(autouse=True)
def hypothesis_writes_elsewhere(tmp_path) -> Iterator[None]:
    print(f"TASKER_STRESS_SEED={SEED}")
    configuration.set_hypothesis_home_dir(tmp_path)
    yield
    configuration.set_hypothesis_home_dir(None)


class Failure(Exception):
    pass


class InputError(Exception):
    pass


@dataclass
class Job:
    """What becomes of the items: which fail, which break their resource how often, and whether the input fails."""

    count: int
    failing: set[int]
    sick: dict[int, int]
    input_fails: bool
    taken: int = 0
    runs: Counter[int] = field(default_factory=Counter)

    def items(self) -> Iterator[int]:
        for item in range(self.count):
            self.taken += 1
            yield item
        if self.input_fails:
            raise InputError

    def run(self, resource: Resource, item: int) -> int:
        assert not resource.broken
        self.runs[item] += 1
        if self.runs[item] <= self.sick.get(item, 0):
            resource.broken = True
            raise Sick(item)
        if item in self.failing:
            raise Failure(item)
        return item

    def outcome(self, item: int, *, once: bool) -> object:
        """What a plain loop would see: the item, or an error's type and item."""
        sick = self.sick.get(item, 0)
        if sick > (0 if once else MAX_RETRIES):
            return (Sick, item)
        return (Failure, item) if item in self.failing else item

    def expected(
        self, *, once: bool, return_exceptions: bool
    ) -> tuple[list[object], type[BaseException] | None]:
        """What a plain loop would hand out, and the kind of error that ends it."""
        handed_out: list[object] = []
        for item in range(self.count):
            outcome = self.outcome(item, once=once)
            if isinstance(outcome, tuple) and not return_exceptions:
                return handed_out, outcome[0]
            handed_out.append(outcome)
        return handed_out, InputError if self.input_fails else None


@st.composite
def jobs(draw) -> Job:
    count = draw(st.integers(0, 25))
    some = st.sets(st.integers(0, max(0, count - 1)), max_size=4)
    sick = {item: draw(st.sampled_from([1, MOST_SICK, 1, FOR_EVER])) for item in draw(some)}
    return Job(count, draw(some), sick, draw(st.booleans()))


@given(
    job=jobs(),
    workers=st.integers(1, 3),
    queue_size=st.sampled_from([0, 0, 1, 3]),
    chunksize=st.integers(1, LONGEST_CHUNK),
    more_window=st.one_of(st.none(), st.integers(0, 9)),
    ordered=st.booleans(),
    return_exceptions=st.booleans(),
    once=st.booleans(),
    priority=st.booleans(),
    timeout=st.sampled_from([None, None, PATIENCE]),
    stop_after=st.one_of(st.none(), st.integers(0, 10)),
)
@settings(
    max_examples=max(1, int(SECONDS * 60)),
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
)
@seed(SEED)
def test_map_is_a_plain_loop(
    job: Job,
    workers,
    queue_size,
    chunksize,
    more_window,
    ordered,
    return_exceptions,
    once,
    priority,
    timeout,
    stop_after,
) -> None:
    factory = Factory()
    config = Config(
        on_create=factory.create,
        on_destroy=factory.destroy,
        worker_count=workers,
        max_worker_count=workers,
        max_retries=MAX_RETRIES,
        check_health=lambda error: not isinstance(error, Sick),
        queue_size=queue_size,
        logger=Log(),
    )
    window = None if more_window is None else chunksize + more_window
    most = 4 * workers * chunksize if window is None else window
    expected, error_kind = job.expected(once=once, return_exceptions=return_exceptions)
    handed_out: list[object] = []
    error: BaseException | None = None
    with TaskManager(config) as manager:
        try:
            with manager.map(
                job.run,
                job.items(),
                max_in_flight=window,
                chunksize=chunksize,
                ordered=ordered,
                return_exceptions=return_exceptions,
                once=once,
                priority=priority,
                timeout=timeout,
            ) as stream:
                while len(handed_out) != stop_after:
                    assert job.taken - len(handed_out) <= most
                    result = next(stream)
                    assert job.taken - len(handed_out) <= most
                    handed_out.append(
                        (type(result), *result.args) if isinstance(result, Exception) else result
                    )
        except StopIteration:
            pass
        except (Failure, Sick, InputError) as raised:
            error = raised
    factory.check()

    whole = error is not None or len(handed_out) != stop_after  # whether it came to its own end
    if whole and len(handed_out) == stop_after:
        assert job.count == 0, (
            "an error that leaves before it is asked for: only at the call, if there is no item"
        )
    if ordered:
        assert handed_out == (expected if whole else expected[:stop_after])
    else:
        possible = Counter(job.outcome(item, once=once) for item in range(job.count))
        assert Counter(handed_out) <= possible
    if whole:
        if ordered or error_kind in (None, InputError):  # else the first that comes
            assert type(error) is (error_kind or type(None))
        if error_kind in (None, InputError):
            assert len(handed_out) == job.count
    for item, runs in job.runs.items():
        sick = 0 if once else min(job.sick.get(item, 0), MAX_RETRIES)
        assert runs <= sick + 1, f"item {item} ran {runs} times"
        if isinstance(error, (Failure, Sick)) or not whole:
            continue
        # an item that breaks its resource for ever has what retries its chunk has left
        assert runs == sick + 1 or (job.sick.get(item) == FOR_EVER and chunksize > 1)
