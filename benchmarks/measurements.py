"""All measurements by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import (
    awaited,
    callables,
    child_start,
    cli,
    context_variables,
    cores,
    idle,
    imports,
    latency,
    mapping,
    metrics_cost,
    processes,
    queued_bytes,
    ray_tasks,
    throughput,
)
from benchmarks.harness.results import Row

__all__ = ["MEASUREMENTS", "Measurement"]


@dataclass(frozen=True)
class Measurement:
    """`run(quick)` measures, in a process of its own.

    Its threads, pins and garbage end with that process. `pinned` means to one CPU. With
    `keeps_byte_code` the process and its children have a byte code cache of their own.
    """

    title: str
    run: Callable[[bool], list[Row]]
    pinned: bool = False
    keeps_byte_code: bool = False


MEASUREMENTS = {
    "submit-1": Measurement(
        "submit all, gather all, no-op tasks, 1 worker", partial(throughput.submit_all, 1)
    ),
    "submit-4": Measurement("the same, 4 workers", partial(throughput.submit_all, 4)),
    "round-trip-1": Measurement(
        "blocking round trip, one caller, 1 worker, one CPU",
        partial(latency.round_trips, 1),
        pinned=True,
    ),
    "round-trip-4": Measurement(
        "the same, 4 workers", partial(latency.round_trips, 4), pinned=True
    ),
    "callers": Measurement(
        "8 blocking callers on 4 workers, one CPU", latency.blocking_callers, pinned=True
    ),
    "cores-30": Measurement(
        "without the GIL: tasks of 30 µs of pure Python, 2 workers and 1",
        partial(cores.second_workers, 30),
    ),
    "cores-300": Measurement("the same, of 300 µs", partial(cores.second_workers, 300)),
    "run-task": Measurement(
        "run_task against a round trip, one CPU", latency.run_task, pinned=True
    ),
    "map": Measurement("map over 200,000 no-op items, 4 workers", mapping.mapped_items),
    "callables": Measurement(
        "submit all, gather all, of partials, methods, builtins and others",
        callables.kinds_of_callables,
    ),
    "drop-in": Measurement("tasker.ThreadPoolExecutor: submit all, gather all", throughput.drop_in),
    "asyncio": Measurement("20,000 no-op tasks awaited with asyncio.gather", awaited.awaited_tasks),
    "contextvars": Measurement(
        "submit all, gather all, with context variables and without",
        context_variables.propagated_variables,
    ),
    "lines": Measurement("lines a second through the command line", cli.lines_a_second),
    "queued": Measurement("bytes of a queued task", queued_bytes.queued_tasks),
    "metrics": Measurement(
        "metrics() and memory after few tasks and after many", metrics_cost.metrics_cost
    ),
    "sleep": Measurement("64 workers, tasks that sleep 1 ms", throughput.sleeping_tasks),
    "idle": Measurement("wake-ups and processor time of an idle pool", idle.idle_pools),
    "processes-round-trip": Measurement(
        "processes: blocking round trip, one caller", processes.process_round_trips
    ),
    "processes-callers": Measurement(
        "processes: 4 blocking callers on 4 workers", processes.process_callers
    ),
    "processes-map": Measurement("processes: map over no-op items", processes.process_map),
    "processes-payload": Measurement(
        "processes: 10 MB argument, 10 MB result", processes.process_payloads
    ),
    "processes-cpu": Measurement(
        "processes: tasks that only compute, 2 workers and 1", processes.processor_time
    ),
    "processes-killed": Measurement(
        "processes: killed, until the worker takes tasks",
        child_start.killed_children,
        keeps_byte_code=True,
    ),
    "processes-ready": Measurement(
        "processes: until one is ready, and its memory",
        child_start.new_children,
        keeps_byte_code=True,
    ),
    "ray-tasks": Measurement("Ray: no-op tasks, 4 actors", ray_tasks.ray_tasks),
    "import": Measurement("what importing costs", imports.import_times),
}
