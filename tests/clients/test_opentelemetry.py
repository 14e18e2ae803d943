"""OpenTelemetry's instrumentation of threads: a span is the parent of what the calls that it submits do."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.waiting import PATIENCE

trace = pytest.importorskip("opentelemetry.trace")
instrumentation = pytest.importorskip("opentelemetry.instrumentation.threading")


@pytest.fixture
def instrumentor():
    instrumentor = instrumentation.ThreadingInstrumentor()
    instrumentor.instrument()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def span(number):
    context = trace.SpanContext(
        number, number, is_remote=False, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    return trace.NonRecordingSpan(context)


def current():
    return trace.get_current_span().get_span_context().span_id


def test_spans_keep_their_parents(instrumentor, executor):
    with trace.use_span(span(5)):
        first = executor.submit(current)
        mapped = list(executor.map(lambda _: current(), range(4), chunksize=2))
    with trace.use_span(span(6)):
        second = executor.submit(current)
    assert (first.result(PATIENCE), mapped, second.result(PATIENCE)) == (5, [5] * 4, 6)
    assert executor.submit(current).result(PATIENCE) == 0


def test_so_they_do_from_an_event_loop(instrumentor, executor):
    async def main():
        with trace.use_span(span(7)):
            return await asyncio.get_running_loop().run_in_executor(executor, current)

    assert asyncio.run(main()) == 7


def test_when_the_instrumentation_is_taken_back_calls_work_as_before(instrumentor, executor):
    assert executor.submit(current).result(PATIENCE) == 0
    instrumentor.uninstrument()
    assert executor._submits_itself()
    assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
