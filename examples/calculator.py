"""The basics: a resource, tasks with arguments, results, errors, futures.

    python examples/calculator.py

The resource is a calculator with a memory. Its worker, a thread, makes it, uses it for one task at a time, and destroys
it in the end; nobody else touches it, so it needs no lock.
"""

from __future__ import annotations

from tasker import Config, TaskManager, TaskManagerShutdownError


class Calculator:
    """A thing with a state, which two threads must not use at once: a connection, a browser, or this."""

    def __init__(self) -> None:
        print("switched on")
        self.memory = 0.0

    def switch_off(self) -> None:
        print("switched off")

    def add(self, number: float) -> float:
        """Add to the memory; returns what is in it now."""
        self.memory += number
        return self.memory


def divide(calculator: Calculator, dividend: float, divisor: float) -> float:
    """A task: a function that gets the worker's resource first, then what was passed along."""
    calculator.memory = dividend / divisor
    return calculator.memory


def main() -> None:
    config = Config(
        on_create=Calculator,
        on_destroy=Calculator.switch_off,
        worker_count=1,
        # By default there may be twice as many workers under load. Each would have a calculator of its own, and which
        # worker takes a task is not said: a sum in one memory needs one worker.
        max_worker_count=1,
    )
    with TaskManager(config) as manager:
        # queue_task waits for the task to end and returns its result. A method of the resource is a task too.
        print("6 / 3 =", manager.queue_task(divide, 6, 3))
        print("plus 40 =", manager.queue_task(Calculator.add, 40))

        # What the task raises is raised here, the very same exception. The calculator has not suffered: go on.
        try:
            manager.queue_task(divide, 1, 0)
        except ZeroDivisionError as error:
            print("1 / 0:", error)
        print("memory:", manager.queue_task(lambda calculator: calculator.memory))

        # queue_task_async returns at once with a future, so that many tasks can be under way.
        # One worker runs them in the order in which they were queued.
        futures = [manager.queue_task_async(Calculator.add, number) for number in (1, 2, 3)]
        print("running sums:", [future.result() for future in futures])

        # A future keeps an error until it is asked for: result() raises it, exception() returns it.
        future = manager.queue_task_async(divide, 1, 0)
        print("the future's error:", repr(future.exception()))

    # Leaving the block waited for every task, destroyed the calculator and ended the thread.
    try:
        manager.queue_task(Calculator.add, 1)
    except TaskManagerShutdownError as error:
        print("too late:", error)


if __name__ == "__main__":
    main()
