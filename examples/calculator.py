"""The basics: a resource, tasks with arguments, results, errors, futures.

    python examples/calculator.py

The resource is a calculator with a memory. Its worker is a thread. It makes the
calculator, uses it for one task at a time, and destroys it in the end. No other thread
touches the calculator, so it needs no lock.
"""

from __future__ import annotations

from tasker import Config, TaskManager, TaskManagerShutdownError


class Calculator:
    """A thing with a state that two threads must not use at once.

    A connection or a browser is another such thing.
    """

    def __init__(self) -> None:
        print("switched on")
        self.memory = 0.0

    def switch_off(self) -> None:
        print("switched off")

    def add(self, number: float) -> float:
        """Add to the memory and return the sum."""
        self.memory += number
        return self.memory


def divide(calculator: Calculator, dividend: float, divisor: float) -> float:
    """A task: a function that gets the worker's resource first, then its arguments."""
    calculator.memory = dividend / divisor
    return calculator.memory


def main() -> None:
    config = Config(
        on_create=Calculator,
        on_destroy=Calculator.switch_off,
        worker_count=1,
        # By default the number of workers may double under load. Each worker would have
        # a calculator of its own, and any worker may take a task. A sum in one memory
        # needs one worker.
        max_worker_count=1,
    )
    with TaskManager(config) as manager:
        # queue_task waits for the task to end and returns its result.
        # A method of the resource is a task too.
        print("6 / 3 =", manager.queue_task(divide, 6, 3))
        print("plus 40 =", manager.queue_task(Calculator.add, 40))

        # An exception that the task raises is raised here, the very same object.
        # The calculator has not suffered and goes on.
        try:
            manager.queue_task(divide, 1, 0)
        except ZeroDivisionError as error:
            print("1 / 0:", error)
        print("memory:", manager.queue_task(lambda calculator: calculator.memory))

        # queue_task_async returns a future at once, so many tasks can be under way.
        # One worker runs them in the order in which they were queued.
        futures = [manager.queue_task_async(Calculator.add, number) for number in (1, 2, 3)]
        print("running sums:", [future.result() for future in futures])

        # A future keeps its error. result() raises it, exception() returns it.
        future = manager.queue_task_async(divide, 1, 0)
        print("the future's error:", repr(future.exception()))

    # Leaving the block waited for every task, destroyed the calculator and ended the
    # thread.
    try:
        manager.queue_task(Calculator.add, 1)
    except TaskManagerShutdownError as error:
        print("too late:", error)


if __name__ == "__main__":
    main()
