"""What the most trusted pools are tested for, and the tests that show it here.

Collected from the tests of the JDK's ThreadPoolExecutor, CPython's executors, psycopg_pool, HikariCP, puddle, trio,
anyio and futurist. Behaviours that belong to no module's tests are tested below the table.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import sys
import threading
from pathlib import Path

import pytest

import tasker.scaling
from tasker import QueueFullError, TaskManagerShutdownError
from tests.conftest import PATIENCE, Sick, eventually

HERE = Path(__file__).parent

BEHAVIOURS: dict[int, tuple[str, tuple[str, ...]]] = {
    # submission
    1: (
        "an accepted task has one outcome",
        (
            "test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "test_model.py::test_random_programs_do_what_a_sequential_model_says",
            "test_future.py::test_rights_are_taken_once_however_many_want_them",
            "interleavings/test_future.py::test_a_task_has_one_outcome_when_its_timeout_and_its_result_meet",
        ),
    ),
    2: (
        "result and exception reach their own submitter as they are",
        (
            "test_manager.py::test_one_resource_is_shared_with_nobody_whatever_the_load",
            "test_future.py::test_a_parked_worker_keeps_nothing_of_its_last_task",
            "test_faults.py::test_whatever_a_task_raises_reaches_its_own_caller_as_it_is_and_the_next_task_runs",
        ),
    ),
    3: ("after the end every form refuses", ("test_shutdown.py::test_after_stop_every_variant_refuses",)),
    4: (
        "a submission that meets the closing is finished or refused",
        (
            "test_shutdown.py::test_submitting_while_closing_is_either_accepted_and_finished_or_refused",
            "test_queue.py::test_a_submission_that_the_closing_overtakes_is_refused_even_if_it_was_swept",
            "test_queue.py::test_a_submission_that_a_worker_took_before_the_closing_looked_is_accepted",
            "interleavings/test_queue.py::test_a_task_put_during_the_closing_is_run_or_refused",
        ),
    ),
    5: ("one callable, many tasks", ("test_manager.py::test_the_same_callable_can_be_submitted_again_and_again",)),
    6: (
        "wrong configuration raises where it is written",
        (
            "test_config.py::test_every_wrong_value_is_refused_with_the_field_the_value_and_what_is_allowed",
            "test_bad_input.py::test_a_wrong_value_is_refused_by_name_and_changes_nothing",
        ),
    ),
    7: (
        "threads that do not start lose no task",
        (
            "test_faults_threads.py::test_one_thread_that_starts_runs_all_tasks_while_the_others_cannot_be_started",
            "test_health.py::test_a_thread_that_cannot_start_is_rolled_back_and_tried_again",
        ),
    ),
    # order
    8: (
        "priority first, each lane first in, first out",
        (
            "test_manager.py::test_priority_goes_before_main_and_each_lane_is_first_in_first_out",
            "test_queue.py::test_a_main_task_is_never_taken_while_a_priority_task_waits_that_was_put_before_it",
        ),
    ),
    9: (
        "retries stay in their lane and starve nobody",
        (
            "test_health.py::test_a_retry_goes_to_the_front_of_its_own_lane",
            "test_behaviours.py::test_tasks_that_are_always_sick_keep_no_other_from_running",
        ),
    ),
    10: (
        "cancelled entries delay nobody",
        (
            "test_behaviours.py::test_cancelled_entries_do_not_delay_the_task_behind_them",
            "test_manager.py::test_a_cancelled_task_gives_its_slot_back_at_once",
        ),
    ),
    # scaling
    11: (
        "never above the maximum",
        (
            "test_crew.py::test_it_never_hires_above_the_most_however_many_ask_at_once",
            "test_scaling.py::test_no_sample_ever_leads_out_of_the_limits",
            "test_health.py::test_slow_creation_never_breaches_the_most_workers",
        ),
    ),
    12: ("a backlog hires", ("test_manager.py::test_a_backlog_grows_the_pool_and_quiet_shrinks_it_to_its_base",)),
    13: (
        "idleness retires down to the base",
        (
            "test_manager.py::test_a_backlog_grows_the_pool_and_quiet_shrinks_it_to_its_base",
            "test_scaling.py::test_a_burst_is_answered_within_three_ticks_and_forgotten_within_two_seconds_of_quiet",
        ),
    ),
    14: ("base workers run together", ("test_manager.py::test_base_workers_run_truly_at_the_same_time",)),
    15: (
        "a worker that leaves takes no task with it",
        (
            "test_behaviours.py::test_workers_that_are_retired_while_tasks_come_lose_none",
            "test_crew.py::test_it_never_retires_below_the_base_nor_who_is_busy",
        ),
    ),
    16: ("long idleness ends no base worker", ("test_behaviours.py::test_long_idleness_ends_no_base_worker",)),
    # resources
    17: (
        "as many destroyed as created, each once",
        (
            "test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "test_faults.py::test_an_on_create_that_fails_now_and_then_costs_no_task",
            "test_faults.py::test_whatever_on_destroy_raises_is_counted_and_reported_and_the_resource_is_replaced",
            "test_soak.py::test_a_short_soak_passes_and_prints_what_it_did",
        ),
    ),
    18: (
        "one user at a time",
        (
            "test_manager.py::test_one_resource_is_shared_with_nobody_whatever_the_load",
            "test_run_task.py::test_two_threads_never_share_a_resource",
            "test_resources.py::test_no_resource_has_two_users_and_none_is_used_after_its_end",
        ),
    ),
    19: (
        "no use after the end",
        (
            "test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "test_resources.py::test_no_resource_has_two_users_and_none_is_used_after_its_end",
        ),
    ),
    20: ("no end during use", ("test_races.py::test_nothing_is_lost_whatever_happens_at_once",)),
    21: (
        "a constructor that fails leaks nothing",
        (
            "test_run_task.py::test_a_constructor_that_fails_at_the_second_creation_leaks_nothing",
            "test_resources.py::test_a_creation_that_fails_while_filling_leaks_none_of_those_before",
        ),
    ),
    22: (
        "what is created too late is destroyed",
        ("test_shutdown.py::test_a_creation_that_finishes_after_the_closing_began_is_destroyed",),
    ),
    23: (
        "what is handed back too late is destroyed",
        (
            "test_resources.py::test_a_hand_back_that_meets_closing_leaves_the_resource_to_exactly_one",
            "test_resources.py::test_what_comes_back_after_closing_is_destroyed_by_who_brings_it",
            "interleavings/test_resources.py::test_a_resource_is_destroyed_once_when_the_pool_is_closed_meanwhile",
        ),
    ),
    24: (
        "an on_destroy that raises harms nothing",
        (
            "test_health.py::test_an_on_destroy_that_raises_harms_nothing_and_is_reported",
            "test_faults.py::test_whatever_on_destroy_raises_is_counted_and_reported_and_the_resource_is_replaced",
        ),
    ),
    25: (
        "at rest workers and pool hold all resources there are",
        ("test_behaviours.py::test_at_rest_the_live_resources_are_those_of_the_workers_and_of_the_pool",),
    ),
    26: (
        "nothing is created after the end",
        ("test_shutdown.py::test_nothing_is_created_or_run_after_close_returned",),
    ),
    # health and retry
    27: (
        "unhealthy: destroyed and replaced",
        ("test_health.py::test_an_unhealthy_error_costs_the_worker_its_resource_and_not_the_caller_the_task",),
    ),
    28: (
        "always sick: one run and max_retries more",
        ("test_health.py::test_an_always_sick_task_runs_once_and_then_max_retries_times",),
    ),
    29: (
        "flaky: a result in the end",
        ("test_health.py::test_an_unhealthy_error_costs_the_worker_its_resource_and_not_the_caller_the_task",),
    ),
    30: (
        "once: one run",
        ("test_health.py::test_a_once_task_runs_at_most_once_and_its_resource_is_replaced_all_the_same",),
    ),
    31: (
        "healthy errors are not retried",
        ("test_health.py::test_healthy_errors_are_not_retried_and_keep_the_resource",),
    ),
    32: (
        "an outage heals by itself",
        (
            "test_health.py::test_an_outage_heals_without_new_submissions",
            "test_health.py::test_workers_that_turn_unhealthy_during_an_outage_come_back",
        ),
    ),
    33: ("all workers break at once and recover", ("test_health.py::test_all_workers_failing_together_recover",)),
    34: (
        "what hooks raise ends no worker",
        (
            "test_faults.py::test_a_check_health_without_a_clear_yes_costs_the_resource_and_nothing_else",
            "test_faults.py::test_a_logger_that_raises_costs_its_messages_and_nothing_else",
            "test_faults.py::test_a_collector_that_raises_loses_no_task_and_no_count_of_ours",
            "test_faults.py::test_whatever_callbacks_raise_is_logged_and_the_other_callbacks_and_tasks_run",
        ),
    ),
    35: (
        "the last error is the task's own, with a note",
        ("test_health.py::test_an_always_sick_task_runs_once_and_then_max_retries_times",),
    ),
    # timeouts and cancellation
    36: (
        "cancelled means never run",
        (
            "test_future.py::test_cancelling_a_waiting_task_means_it_never_runs",
            "test_queue.py::test_a_retry_that_meets_a_cancellation_is_settled_once",
            "interleavings/test_future.py::test_a_task_is_either_cancelled_or_started",
            "interleavings/test_future.py::test_a_task_that_is_put_back_is_either_cancelled_or_started_again",
        ),
    ),
    37: (
        "a running task is not cancelled",
        ("test_future.py::test_cancelling_a_running_task_says_false_and_cancels_its_context",),
    ),
    38: (
        "who stops waiting leaves the task alone",
        ("test_future.py::test_a_wait_that_times_out_leaves_the_task_alone",),
    ),
    39: (
        "cancel everything, then close",
        ("test_behaviours.py::test_a_manager_whose_waiting_tasks_were_all_cancelled_closes",),
    ),
    40: (
        "cancelling wakes who waits",
        (
            "test_future.py::test_cancelling_wakes_who_waits",
            "test_future.py::test_wait_is_woken_by_every_kind_of_outcome",
        ),
    ),
    41: (
        "what is cancelled is freed",
        (
            "test_future.py::test_mass_cancellation_empties_the_lane",
            "test_memory.py::test_all_of_a_task_is_freed_with_its_future",
            "test_memory.py::test_a_kept_future_of_a_task_that_never_ran_keeps_nothing_of_it",
        ),
    ),
    # closing
    42: (
        "stop drains, retries too",
        (
            "test_shutdown.py::test_stop_runs_every_accepted_task_and_its_callbacks",
            "test_shutdown.py::test_stop_drains_retries",
        ),
    ),
    43: (
        "stop ends during an outage",
        (
            "test_shutdown.py::test_stop_returns_during_an_outage",
            "test_shutdown.py::test_stop_during_an_outage_with_tasks_waiting_ends_after_create_timeout",
        ),
    ),
    44: (
        "kill cancels, signals, ends",
        (
            "test_shutdown.py::test_kill_fails_what_waits_and_signals_what_runs",
            "test_shutdown.py::test_kill_wakes_blocked_callers_and_standard_waiters",
        ),
    ),
    45: (
        "kill overtakes stop",
        (
            "test_shutdown.py::test_kill_overtakes_a_stop_and_repeated_closes_agree",
            "test_shutdown.py::test_stop_with_a_timeout_goes_on_as_kill",
        ),
    ),
    46: (
        "closing again, and at the same time",
        ("test_shutdown.py::test_kill_overtakes_a_stop_and_repeated_closes_agree",),
    ),
    47: (
        "closing from inside",
        (
            "test_shutdown.py::test_closing_from_a_task_does_not_lock_up",
            "test_shutdown.py::test_closing_from_a_callback_does_not_lock_up",
            "test_faults_threads.py::test_closing_from_any_hook_does_not_lock_up",
        ),
    ),
    48: (
        "closing waits for run_task",
        ("test_run_task.py::test_stop_waits_for_resources_that_are_out_and_they_are_destroyed",),
    ),
    49: (
        "the parent context's end leaves no caller waiting",
        ("test_shutdown.py::test_cancelling_the_parent_context_drains_and_leaves_no_caller_waiting",),
    ),
    50: (
        "the interpreter exits",
        (
            "test_shutdown.py::test_the_interpreter_exits_with_a_manager_nobody_stopped_and_finishes_its_tasks",
            "test_shutdown.py::test_the_interpreter_exits_with_a_stuck_task",
            "test_faults_exit.py::test_interpreter_exit_gives_five_seconds_to_drain_and_little_more_to_the_killed",
        ),
    ),
    51: (
        "a dropped manager is collected",
        (
            "test_shutdown.py::test_a_forgotten_manager_is_stopped_and_collected",
            "test_memory.py::test_a_manager_that_is_dropped_is_freed_with_all_that_it_was_given",
        ),
    ),
    52: (
        "forking",
        (
            "test_shutdown.py::test_a_forked_child_is_refused_and_exits_and_the_parent_is_unharmed",
            "test_faults_exit.py::test_in_a_forked_child_every_use_of_a_busy_manager_returns_or_raises_and_the_parent_is_unharmed",
        ),
    ),
    53: (
        "Ctrl-C",
        (
            "test_shutdown.py::test_ctrl_c_in_a_blocked_call_raises_at_once_and_cancels_the_task",
            "test_shutdown.py::test_ctrl_c_in_the_middle_of_submissions_strands_nothing_and_refuses_what_it_ends",
            "test_interrupts.py::test_an_interrupt_at_every_moment_of_a_submission_strands_nothing",
        ),
    ),
    54: (
        "closing from a signal handler",
        (
            "test_shutdown.py::test_closing_from_a_signal_handler_in_the_middle_of_submitting_does_not_lock_up",
            "test_faults_threads.py::test_a_signal_handler_may_close_at_every_line_of_a_submission",
        ),
    ),
    55: (
        "after the end nothing runs but what the report names",
        (
            "test_shutdown.py::test_nothing_is_created_or_run_after_close_returned",
            "test_shutdown.py::test_kill_leaves_stuck_threads_behind_and_names_them",
        ),
    ),
    # futures
    56: (
        "futures are standard ones",
        (
            "test_future.py::test_wait_and_as_completed_work",
            "test_aio.py::test_what_the_async_methods_return_can_be_awaited",
            "test_shutdown.py::test_kill_wakes_blocked_callers_and_standard_waiters",
        ),
    ),
    57: (
        "callbacks run once and in order",
        (
            "test_future.py::test_callbacks_run_once_in_order_and_also_when_already_done",
            "test_future.py::test_a_callback_that_is_added_while_the_task_is_settled_runs_once",
        ),
    ),
    58: (
        "a callback that raises stops no other",
        ("test_future.py::test_one_raising_callback_stops_neither_the_rest_nor_the_worker",),
    ),
    59: (
        "every kind of exception is delivered",
        (
            "test_future.py::test_every_kind_of_exception_is_delivered_and_the_worker_lives",
            "test_future.py::test_an_exception_that_coroutines_cannot_be_thrown_neither_hangs_nor_ends_an_awaiter",
        ),
    ),
    60: ("nobody sets a second result", ("test_future.py::test_nobody_else_settles_a_task",)),
    # metrics
    61: (
        "arrivals are accounted for",
        (
            "test_manager.py::test_metrics_equal_reality",
            "test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "test_behaviours.py::test_at_rest_arrivals_are_what_ended_and_what_waits_and_what_runs",
        ),
    ),
    62: (
        "counters only grow",
        (
            "test_metrics.py::test_totals_only_grow_and_are_exact_at_rest_whatever_the_order_of_events",
            "test_metrics.py::test_the_reader_shows_no_arrival_twice_and_takes_none_back",
            "interleavings/test_metrics.py::test_a_reader_counts_every_task_once_while_its_worker_retires",
        ),
    ),
    63: (
        "counts are those of what happened",
        (
            "test_manager.py::test_metrics_equal_reality",
            "test_model.py::test_workers_that_run_freely_come_to_the_outcomes_and_counts_of_a_sequential_model",
            "test_run_task.py::test_a_creation_that_fails_is_raised_and_counted",
        ),
    ),
    64: ("stats() waits for nobody", ("test_behaviours.py::test_stats_wait_for_no_lock_and_work_in_every_state",)),
    # nesting
    65: (
        "the only worker submits",
        ("test_manager.py::test_a_task_may_submit_to_its_own_manager_without_waiting",),
    ),
    66: (
        "run_task within run_task and within tasks",
        (
            "test_run_task.py::test_a_temporary_resource_is_made_when_all_are_out",
            "test_run_task.py::test_it_works_inside_a_task_of_the_same_manager",
        ),
    ),
    67: (
        "base - 1 waits within each other",
        (
            "test_manager.py::test_nested_blocking_waits_work_up_to_one_less_than_the_workers",
            "test_deadlock.py::test_base_minus_one_nested_waits_are_served",
        ),
    ),
    68: (
        "user code runs under no lock",
        (
            "test_behaviours.py::test_no_lock_is_held_while_code_of_the_users_runs",
            "test_behaviours.py::test_a_del_that_the_collector_runs_anywhere_may_use_the_manager",
            "test_resources.py::test_nothing_of_the_users_runs_under_the_lock",
            "test_context.py::test_callbacks_run_under_no_lock",
        ),
    ),
    # memory
    69: ("idle workers keep nothing", ("test_memory.py::test_a_worker_that_has_just_parked_holds_nothing",)),
    70: ("failures make no cycles", ("test_memory.py::test_all_of_a_task_is_freed_with_its_future",)),
    71: (
        "a closed manager keeps nothing",
        (
            "test_shutdown.py::test_a_closed_manager_keeps_nothing_of_its_tasks",
            "test_memory.py::test_a_stopped_manager_that_is_kept_holds_no_resource_and_no_task",
        ),
    ),
    72: (
        "no thread outlives the end",
        (
            "test_behaviours.py::test_when_the_end_is_reported_no_thread_is_left_but_the_abandoned",
            "test_shutdown.py::test_kill_leaves_stuck_threads_behind_and_names_them",
        ),
    ),
    # free threading
    73: (
        "all of it without the GIL, with tiny switch intervals, and with seeded schedules",
        (
            "test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "interleavings/test_future.py::test_both_are_told_whatever_the_schedule",
            "interleavings/test_queue.py::test_a_task_put_during_the_closing_is_run_or_refused_whatever_the_schedule",
            "test_soak.py::test_a_short_soak_passes_and_prints_what_it_did",
        ),
    ),
}


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_behaviour_has_tests_that_exist() -> None:
    assert sorted(BEHAVIOURS) == list(range(1, 74))
    assert [number for number, (words, names) in BEHAVIOURS.items() if not (words and names)] == []
    named = [name.partition("::") for _, names in BEHAVIOURS.values() for name in names]
    there = {file: names_in(HERE / file) for file, _, _ in named}
    assert [f"{file}::{test}" for file, _, test in named if test not in there[file]] == []


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pauses", ["no_pauses", "short_pauses"])
def test_tasks_that_are_always_sick_keep_no_other_from_running(make, request, pauses):
    request.getfixturevalue(pauses)
    manager = make(worker_count=1, max_worker_count=1, max_retries=3)
    order = []

    def sick(resource, name):
        order.append(name)
        raise Sick

    failing = [manager.submit(sick, "sick", priority=i % 2 == 0) for i in range(6)]
    others = [manager.submit(lambda resource, i: order.append(i), i) for i in range(6)]
    assert [future.result(PATIENCE) for future in others] == [None] * 6
    assert {type(future.exception(PATIENCE)) for future in failing} == {Sick}
    assert order.count("sick") == 6 * 4
    assert [name for name in order if name != "sick"] == list(range(6))


def test_cancelled_entries_do_not_delay_the_task_behind_them(make):
    manager = make(worker_count=1, max_worker_count=1)
    gate, order = threading.Event(), []
    eventually(manager.submit(lambda resource: gate.wait(PATIENCE)).running)
    for priority in (False, True):
        cancelled = [manager.submit(lambda resource: order.append("cancelled"), priority=priority) for _ in range(500)]
        manager.submit(lambda resource, priority: order.append(priority), priority, priority=priority)
        assert all(future.cancel() for future in cancelled)
    gate.set()
    assert manager.join(PATIENCE)
    assert order == [True, False]


# -- scaling ---------------------------------------------------------------------------------------------------------


def test_workers_that_are_retired_while_tasks_come_lose_none(make):
    manager = make(worker_count=1, max_worker_count=4)
    engine = manager._engine
    futures, done = [], threading.Event()

    def retire():
        while not done.is_set():
            engine.crew.hire(3)
            eventually(lambda: engine.queue.idle.announced or done.is_set())
            engine.crew.retire(3, engine.queue.idle)

    thread = threading.Thread(target=retire)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for i in range(1000):
            futures.append(manager.submit(lambda resource, i: i, i))
            if i % 3 == 0:
                assert futures[-1].result(PATIENCE) == i  # so that workers park in between
    finally:
        sys.setswitchinterval(before)
        done.set()
        thread.join(PATIENCE)
    assert [future.result(PATIENCE) for future in futures] == list(range(1000))
    assert manager.stats().active_workers >= 1


def test_long_idleness_ends_no_base_worker(make, monkeypatch):
    monkeypatch.setattr(tasker.scaling, "WINDOW", 0.01)  # long is what takes many windows
    manager = make(worker_count=3, max_worker_count=6, burst_interval=0.002)
    engine = manager._engine
    assert manager.wait_ready(PATIENCE)
    before, samples = engine.crew.members, []
    tick = engine.burst._window.tick
    monkeypatch.setattr(engine.burst._window, "tick", lambda *args, **kw: samples.append(1) or tick(*args, **kw))
    eventually(lambda: len(samples) > 60)
    assert engine.crew.members == before
    assert manager.stats().idle_workers == 3


# -- resources -------------------------------------------------------------------------------------------------------


def test_at_rest_the_live_resources_are_those_of_the_workers_and_of_the_pool(make, factory):
    factory.any_thread = True
    manager = make(worker_count=2, max_worker_count=5, burst_interval=0.01, resource_pool_size=2, max_retries=1)
    refused = []

    def task(resource, i):
        if i % 7 == 0:
            raise Sick
        return i

    def call():
        for i in range(50):
            try:
                manager.run_task(task, i)
            except Sick:
                refused.append(i)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    futures = [manager.submit(task, i) for i in range(300)]
    for caller in callers:
        caller.join(PATIENCE)
    assert {type(future.exception(PATIENCE)) for future in futures} == {Sick, type(None)}
    assert len(refused) == 4 * 8

    def held():
        stats = manager.stats()
        return stats.active_workers + stats.available_resources

    eventually(lambda: manager.stats().creating_workers == 0 and factory.live == held())
    assert factory.live >= 2


# -- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_manager_whose_waiting_tasks_were_all_cancelled_closes(make, end, busy):
    manager = make(worker_count=1, max_worker_count=1)
    gate = threading.Event()
    running = manager.submit(lambda resource: gate.wait(PATIENCE))
    eventually(running.running)
    futures = [manager.submit(lambda resource: 0, priority=i % 2 == 0) for i in range(10)]
    assert all(future.cancel() for future in futures)
    if not busy:
        gate.set()
        assert running.result(PATIENCE)
    threading.Timer(0.02, gate.set).start()
    report = getattr(manager, end)(PATIENCE)
    assert (report.cancelled, report.never_started, report.abandoned) == (10, 10, ())
    with pytest.raises(TaskManagerShutdownError):
        manager.submit(lambda resource: 0)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_when_the_end_is_reported_no_thread_is_left_but_the_abandoned(make, factory, end):
    manager = make(name="outlived", worker_count=3, max_worker_count=6, burst_interval=0.005)
    gate = threading.Event()
    for _ in range(50):
        manager.queue_task_with_callback(lambda resource: 0, lambda result, error: None)
    if end == "stop":
        report = manager.stop()
    else:
        stuck = manager.submit(lambda resource: gate.wait(PATIENCE), priority=True)
        eventually(stuck.running)
        report = manager.kill(0)

    def names():
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("outlived")}

    # those that have told of the end are on their way out
    eventually(lambda: not names() & {"outlived-aside", "outlived-burst"})
    left = names()
    gate.set()
    eventually(lambda: factory.live == 0)
    assert left <= set(report.abandoned)  # one of those may have ended since
    assert ("-worker-" in str(left)) is (end == "kill")
    assert bool(left) == (end == "kill")


# -- looking ---------------------------------------------------------------------------------------------------------


def test_at_rest_arrivals_are_what_ended_and_what_waits_and_what_runs(make):
    manager = make(worker_count=2, max_worker_count=2)
    begun, gate = threading.Barrier(3), threading.Event()
    manager.queue_task(lambda resource: 0)
    running = [manager.submit(lambda resource: (begun.wait(PATIENCE), gate.wait(PATIENCE))[1]) for _ in range(2)]
    begun.wait(PATIENCE)
    waiting = [manager.submit(lambda resource: 0, priority=i % 2 == 0) for i in range(5)]
    waiting[0].cancel()
    stats, totals = manager.stats(), manager.metrics()
    assert (stats.running_tasks, stats.queued_tasks, stats.priority_tasks) == (2, 2, 2)
    assert (totals.total_tasks_completed, totals.total_tasks_failed, totals.total_tasks_cancelled) == (1, 0, 1)
    assert totals.total_tasks_arrived == 1 + 0 + 1 + 2 + 4
    gate.set()
    assert all(future.result(PATIENCE) for future in running)


def locks_of(manager):
    """The locks of a manager's parts, whatever they guard."""
    engine = manager._engine
    parts = [engine, *(part for part in vars(engine).values() if type(part).__module__.startswith("tasker."))]
    return {
        f"{type(part).__name__}.{name}": value
        for part in parts
        for name, value in getattr(part, "__dict__", {}).items()
        if hasattr(value, "acquire") and hasattr(value, "release") and not hasattr(value, "wait")
    }


def test_stats_wait_for_no_lock_and_work_in_every_state(make):
    manager = make(worker_count=1)
    assert manager.wait_ready(PATIENCE)
    locks = locks_of(manager)
    assert len(locks) >= 4
    held, looked, seen = threading.Event(), threading.Event(), []

    def hold():
        for lock in locks.values():
            lock.acquire()
        held.set()
        looked.wait(PATIENCE)
        for lock in locks.values():
            lock.release()

    holder = threading.Thread(target=hold)
    looker = threading.Thread(target=lambda: seen.append(manager.stats()))
    holder.start()
    assert held.wait(PATIENCE)
    looker.start()
    looker.join(PATIENCE)
    stuck = looker.is_alive()
    looked.set()
    holder.join(PATIENCE)
    looker.join(PATIENCE)
    assert not stuck
    assert seen[0].active_workers == 1

    looks = []
    manager.queue_task(lambda resource: looks.append(manager.stats().running_tasks))
    manager.queue_task_with_callback(lambda resource: 0, lambda result, error: looks.append(manager.stats()))
    manager.stop()
    assert looks[0] == 1
    assert manager.stats().active_workers == 0
    manager.kill()
    assert manager.stats().available_resources == 0


# -- user code and locks ---------------------------------------------------------------------------------------------


def test_no_lock_is_held_while_code_of_the_users_runs(make, factory, monkeypatch):
    """Another thread takes every lock while the user's code waits for it: that one holds none of them."""
    factory.any_thread = True
    places, kept = set(), []
    locks = {}

    def probe(place):
        def take_all():
            for name, lock in locks.items():
                if lock.acquire(timeout=PATIENCE / 4):
                    lock.release()
                else:
                    kept.append((place, name))

        if locks and place not in places:  # once is enough for each
            places.add(place)
            thread = threading.Thread(target=take_all)
            thread.start()
            thread.join(PATIENCE)

    class Collector:
        def record_arrival(self):
            probe("record_arrival")

        def record_completion(self, stamps):
            probe("record_completion")

        def record_failure(self, stamps):
            probe("record_failure")

        def record_retry(self):
            probe("record_retry")

        def metrics(self):
            probe("metrics")

    class Log:
        def debug(self, msg, *args):
            probe("debug")

        info = debug

        def warning(self, msg, *args):
            probe("warning")

        def error(self, msg, *args):
            probe("error")

    def create():
        probe("on_create")
        return factory.create()

    def destroy(resource):
        probe("on_destroy")
        factory.destroy(resource)
        raise OSError("which is a warning")

    def check(error):
        probe("check_health")
        return not isinstance(error, Sick)

    manager = make(
        worker_count=1,
        max_worker_count=2,
        burst_task_threshold=1,
        burst_interval=0.01,
        max_retries=1,
        queue_size=100,
        resource_pool_size=1,
        on_create=create,
        on_destroy=destroy,
        check_health=check,
        collector=Collector(),
        logger=Log(),
    )
    locks.update(locks_of(manager))

    def task(resource, error):
        probe("task")
        if error is not None:
            raise error

    def callback(done):
        probe(f"callback of {type(done.exception()).__name__ if not done.cancelled() else 'a cancelled task'}")
        raise ValueError

    for error in (None, Sick(), LookupError()):
        future = manager.submit(task, error)
        future.add_done_callback(callback)
        assert future.exception(PATIENCE) is error
    with pytest.raises(Sick):
        manager.run_task(task, Sick())
    gate = threading.Event()
    running = [manager.submit(lambda ctx, resource: gate.wait(PATIENCE)) for _ in range(4)]
    eventually(lambda: manager.stats().running_tasks == 2)
    cancelled = manager.submit(task, None)
    cancelled.add_done_callback(callback)
    assert cancelled.cancel()
    late = manager.submit(task, None, timeout=0.001)
    late.add_done_callback(callback)
    eventually(late.done)
    manager.metrics()
    gate.set()
    assert all(future.result(PATIENCE) for future in running)
    manager.stop()
    assert kept == []
    assert places == {
        *("on_create", "on_destroy", "check_health", "task", "debug", "warning", "error"),
        *("record_arrival", "record_completion", "record_failure", "record_retry", "metrics"),
        *(
            f"callback of {kind}"
            for kind in ("NoneType", "Sick", "LookupError", "TaskTimeoutError", "a cancelled task")
        ),
    }


@pytest.mark.parametrize("bound", [0, 20])
def test_a_del_that_the_collector_runs_anywhere_may_use_the_manager(make, factory, bound):
    factory.any_thread = True
    manager = make(worker_count=2, max_worker_count=2, queue_size=bound, resource_pool_size=1)
    done, errors = [], []

    class Knot:
        """Garbage that only the collector finds."""

        def __init__(self):
            self.me = self

        def __del__(self):
            try:
                future = manager.submit(lambda resource: done.append(1), queue_timeout=0, timeout=PATIENCE)
                manager.submit(lambda resource: None, priority=True, queue_timeout=0).cancel()
                future.cancelled()
                manager.stats()
                manager.metrics()
            except QueueFullError:
                pass
            except BaseException as error:
                errors.append(error)

    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for i in range(300):
            Knot()
            with contextlib.suppress(QueueFullError):
                manager.submit(lambda resource: [[]], timeout=PATIENCE, queue_timeout=1, priority=i % 2 == 0)
            if i % 50 == 0:
                manager.run_task(lambda resource: [[]])
                gc.collect()  # without the GIL it does not run by itself for so little
    finally:
        gc.set_threshold(*before)
    assert manager.join(PATIENCE)
    Knot()  # one that finds room: all the others may have met a full queue
    gc.collect()
    assert manager.join(PATIENCE)
    assert errors == []
    assert done
