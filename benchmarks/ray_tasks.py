"""Resources in Ray actors: a task through the manager beside Ray's own ways.

They run on a local cluster. Actors run functions from the top level of a module, where
they find them.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.harness.ray_cluster import gather, local_cluster, open_ray
from benchmarks.harness.results import Row, workers_in_words
from benchmarks.harness.rivals import TASKER
from benchmarks.harness.rounds import Sampler, interleave, ratios, seconds, spread, spreads
from benchmarks.harness.targets import Target

__all__ = ["ray_tasks"]

WORKERS = 4
ORDERED, UNORDERED, PLAIN = "ActorPool.map", "ActorPool.map_unordered", "plain Ray tasks one by one"


class _Actor:
    def run(self, item: int) -> None: ...


def ray_tasks(quick: bool) -> list[Row]:
    """Submit all and gather all, beside the same number of actors in an `ActorPool` and
    plain tasks awaited singly.
    """
    if find_spec("ray") is None:
        print("not installed: ray", file=sys.stderr)
        return []

    count, singly, rounds = (100, 20, 2) if quick else (1_000, 200, 11)
    with ExitStack() as stack:
        ray = stack.enter_context(local_cluster())
        manager = stack.enter_context(open_ray(WORKERS))
        manager.wait_ready()
        actors = [ray.remote(num_cpus=0)(_Actor).remote() for _ in range(WORKERS)]
        pool = import_module("ray.util").ActorPool(actors)
        plain = ray.remote(num_cpus=0)(_plain_item)
        samplers: dict[str, Sampler] = {
            TASKER: lambda: seconds(lambda: gather(manager, count)) / count * 1e6,
            ORDERED: lambda: seconds(lambda: list(pool.map(_send, range(count)))) / count * 1e6,
            UNORDERED: lambda: (
                seconds(lambda: list(pool.map_unordered(_send, range(count)))) / count * 1e6
            ),
            PLAIN: lambda: (
                seconds(lambda: [ray.get(plain.remote(i)) for i in range(singly)]) / singly * 1e6
            ),
        }
        samples = interleave(samplers, rounds)

    title = f"Ray: no-op tasks, submit all, gather all, {workers_in_words(WORKERS)}"
    note = f"{count:,} tasks ({singly} plain ones), {rounds} rounds, Ray {ray.__version__}"

    return [
        Row(
            name=name,
            title=f"{title}: to {rival}",
            unit="µs a task",
            figures=spreads({TASKER: samples[TASKER], rival: samples[rival]}),
            ratio=spread(ratios(samples[rival], samples[TASKER])),
            meaning=f"times as fast as {rival}",
            target=Target("at least", least),
            notes=(note,),
        )
        for name, rival, least in (
            ("ray-tasks", ORDERED, 1),
            ("ray-tasks-unordered", UNORDERED, 1),
            ("ray-tasks-plain", PLAIN, 2),
        )
    ]


def _plain_item(item: int) -> None: ...


def _send(actor: Any, item: int) -> Any:
    return actor.run.remote(item)
