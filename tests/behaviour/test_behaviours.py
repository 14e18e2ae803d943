"""What the most trusted pools are tested for, and the tests that show it here.

Collected from the tests of the JDK's ThreadPoolExecutor, CPython's executors, psycopg_pool, HikariCP, puddle, trio,
anyio and futurist. Those that belong to no module's tests are in test_behaviours_of_no_module.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

BEHAVIOURS: dict[int, tuple[str, tuple[str, ...]]] = {
    # submission
    1: (
        "an accepted task has one outcome",
        (
            "behaviour/test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "behaviour/test_model.py::test_random_programs_do_what_a_sequential_model_says",
            "unit/test_future.py::test_rights_are_taken_once_however_many_want_them",
            "interleavings/test_future.py::test_a_task_has_one_outcome_when_its_timeout_and_its_result_meet",
        ),
    ),
    2: (
        "result and exception reach their own submitter as they are",
        (
            "unit/test_manager.py::test_one_resource_is_shared_with_nobody_whatever_the_load",
            "unit/test_future.py::test_a_parked_worker_keeps_nothing_of_its_last_task",
            "behaviour/test_faults.py::test_whatever_a_task_raises_reaches_its_own_caller_as_it_is_and_the_next_task_runs",
        ),
    ),
    3: (
        "after the end every form refuses",
        ("behaviour/test_shutdown.py::test_after_stop_every_variant_refuses",),
    ),
    4: (
        "a submission that meets the closing is finished or refused",
        (
            "behaviour/test_shutdown.py::test_submitting_while_closing_is_either_accepted_and_finished_or_refused",
            "unit/test_queue.py::test_a_submission_that_the_closing_overtakes_is_refused_even_if_it_was_swept",
            "unit/test_queue.py::test_a_submission_that_a_worker_took_before_the_closing_looked_is_accepted",
            "interleavings/test_queue.py::test_a_task_put_during_the_closing_is_run_or_refused",
        ),
    ),
    5: (
        "one callable, many tasks",
        ("unit/test_manager.py::test_the_same_callable_can_be_submitted_again_and_again",),
    ),
    6: (
        "wrong configuration raises where it is written",
        (
            "unit/test_config.py::test_every_wrong_value_is_refused_with_the_field_the_value_and_what_is_allowed",
            "behaviour/test_bad_input.py::test_a_wrong_value_is_refused_by_name_and_changes_nothing",
        ),
    ),
    7: (
        "threads that do not start lose no task",
        (
            "behaviour/test_faults_threads.py::test_one_thread_that_starts_runs_all_tasks_while_the_others_cannot_be_started",
            "behaviour/test_health.py::test_a_thread_that_cannot_start_is_rolled_back_and_tried_again",
        ),
    ),
    # order
    8: (
        "priority first, each lane first in, first out",
        (
            "unit/test_manager.py::test_priority_goes_before_main_and_each_lane_is_first_in_first_out",
            "unit/test_queue.py::test_a_main_task_is_never_taken_while_a_priority_task_waits_that_was_put_before_it",
        ),
    ),
    9: (
        "retries stay in their lane and starve nobody",
        (
            "behaviour/test_health.py::test_a_retry_goes_to_the_front_of_its_own_lane",
            "behaviour/test_behaviours_of_no_module.py::test_tasks_that_are_always_sick_keep_no_other_from_running",
        ),
    ),
    10: (
        "cancelled entries delay nobody",
        (
            "behaviour/test_behaviours_of_no_module.py::test_cancelled_entries_do_not_delay_the_task_behind_them",
            "unit/test_manager.py::test_a_cancelled_task_gives_its_seat_back_at_once",
        ),
    ),
    # scaling
    11: (
        "never above the maximum",
        (
            "unit/test_crew.py::test_it_never_hires_above_the_most_however_many_ask_at_once",
            "unit/test_scaling.py::test_no_sample_ever_leads_out_of_the_limits",
            "behaviour/test_health.py::test_slow_creation_never_breaches_the_most_workers",
        ),
    ),
    12: (
        "a backlog hires",
        ("unit/test_manager.py::test_a_backlog_grows_the_pool_and_quiet_shrinks_it_to_its_base",),
    ),
    13: (
        "idleness retires down to the base",
        (
            "unit/test_manager.py::test_a_backlog_grows_the_pool_and_quiet_shrinks_it_to_its_base",
            "unit/test_scaling.py::test_a_burst_is_answered_within_three_ticks_and_forgotten_within_two_seconds_of_quiet",
        ),
    ),
    14: (
        "base workers run together",
        ("unit/test_manager.py::test_base_workers_run_truly_at_the_same_time",),
    ),
    15: (
        "a worker that leaves takes no task with it",
        (
            "behaviour/test_behaviours_of_no_module.py::test_workers_that_are_retired_while_tasks_come_lose_none",
            "unit/test_crew.py::test_it_never_retires_below_the_base_nor_who_is_busy",
        ),
    ),
    16: (
        "long idleness ends no base worker",
        ("behaviour/test_behaviours_of_no_module.py::test_long_idleness_ends_no_base_worker",),
    ),
    # resources
    17: (
        "as many destroyed as created, each once",
        (
            "behaviour/test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "behaviour/test_faults.py::test_an_on_create_that_fails_now_and_then_costs_no_task",
            "behaviour/test_faults.py::test_whatever_on_destroy_raises_is_counted_and_reported_and_the_resource_is_replaced",
            "soak/test_soak.py::test_a_short_soak_passes_and_prints_what_it_did",
        ),
    ),
    18: (
        "one user at a time",
        (
            "unit/test_manager.py::test_one_resource_is_shared_with_nobody_whatever_the_load",
            "unit/test_run_task.py::test_two_threads_never_share_a_resource",
            "unit/test_resources.py::test_no_resource_has_two_users_and_none_is_used_after_its_end",
        ),
    ),
    19: (
        "no use after the end",
        (
            "behaviour/test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "unit/test_resources.py::test_no_resource_has_two_users_and_none_is_used_after_its_end",
        ),
    ),
    20: (
        "no end during use",
        ("behaviour/test_races.py::test_nothing_is_lost_whatever_happens_at_once",),
    ),
    21: (
        "a constructor that fails leaks nothing",
        (
            "unit/test_run_task.py::test_a_constructor_that_fails_at_the_second_creation_leaks_nothing",
            "unit/test_resources.py::test_a_creation_that_fails_while_filling_leaks_none_of_those_before",
        ),
    ),
    22: (
        "what is created too late is destroyed",
        (
            "behaviour/test_shutdown.py::test_a_creation_that_finishes_after_the_closing_began_is_destroyed",
        ),
    ),
    23: (
        "what is handed back too late is destroyed",
        (
            "unit/test_resources.py::test_a_hand_back_that_meets_closing_leaves_the_resource_to_exactly_one",
            "unit/test_resources.py::test_what_comes_back_after_closing_is_destroyed_by_who_brings_it",
            "interleavings/test_resources.py::test_a_resource_is_destroyed_once_when_the_pool_is_closed_meanwhile",
        ),
    ),
    24: (
        "an on_destroy that raises harms nothing",
        (
            "behaviour/test_health.py::test_an_on_destroy_that_raises_harms_nothing_and_is_reported",
            "behaviour/test_faults.py::test_whatever_on_destroy_raises_is_counted_and_reported_and_the_resource_is_replaced",
        ),
    ),
    25: (
        "at rest workers and pool hold all resources there are",
        (
            "behaviour/test_behaviours_of_no_module.py::test_at_rest_the_live_resources_are_those_of_the_workers_and_of_the_pool",
        ),
    ),
    26: (
        "nothing is created after the end",
        ("behaviour/test_shutdown.py::test_nothing_is_created_or_run_after_close_returned",),
    ),
    # health and retry
    27: (
        "unhealthy: destroyed and replaced",
        (
            "behaviour/test_health.py::test_an_unhealthy_error_costs_the_worker_its_resource_and_not_the_caller_the_task",
        ),
    ),
    28: (
        "always sick: one run and max_retries more",
        (
            "behaviour/test_health.py::test_an_always_sick_task_runs_once_and_then_max_retries_times",
        ),
    ),
    29: (
        "flaky: a result in the end",
        (
            "behaviour/test_health.py::test_an_unhealthy_error_costs_the_worker_its_resource_and_not_the_caller_the_task",
        ),
    ),
    30: (
        "once: one run",
        (
            "behaviour/test_health.py::test_a_once_task_runs_at_most_once_and_its_resource_is_replaced_all_the_same",
        ),
    ),
    31: (
        "healthy errors are not retried",
        ("behaviour/test_health.py::test_healthy_errors_are_not_retried_and_keep_the_resource",),
    ),
    32: (
        "an outage heals by itself",
        (
            "behaviour/test_health.py::test_an_outage_heals_without_new_submissions",
            "behaviour/test_health.py::test_workers_that_turn_unhealthy_during_an_outage_come_back",
        ),
    ),
    33: (
        "all workers break at once and recover",
        ("behaviour/test_health.py::test_all_workers_failing_together_recover",),
    ),
    34: (
        "what hooks raise ends no worker",
        (
            "behaviour/test_faults.py::test_a_check_health_without_a_clear_yes_costs_the_resource_and_nothing_else",
            "behaviour/test_faults.py::test_a_logger_that_raises_costs_its_messages_and_nothing_else",
            "behaviour/test_faults.py::test_a_collector_that_raises_loses_no_task_and_no_count_of_ours",
            "behaviour/test_faults.py::test_whatever_callbacks_raise_is_logged_and_the_other_callbacks_and_tasks_run",
        ),
    ),
    35: (
        "the last error is the task's own, with a note",
        (
            "behaviour/test_health.py::test_an_always_sick_task_runs_once_and_then_max_retries_times",
        ),
    ),
    # timeouts and cancellation
    36: (
        "cancelled means never run",
        (
            "unit/test_future.py::test_cancelling_a_waiting_task_means_it_never_runs",
            "unit/test_queue.py::test_a_retry_that_meets_a_cancellation_is_settled_once",
            "interleavings/test_future.py::test_a_task_is_either_cancelled_or_started",
            "interleavings/test_future.py::test_a_task_that_is_put_back_is_either_cancelled_or_started_again",
        ),
    ),
    37: (
        "a running task is not cancelled",
        ("unit/test_future.py::test_cancelling_a_running_task_says_false_and_cancels_its_context",),
    ),
    38: (
        "who stops waiting leaves the task alone",
        ("unit/test_future.py::test_a_wait_that_times_out_leaves_the_task_alone",),
    ),
    39: (
        "cancel everything, then close",
        (
            "behaviour/test_behaviours_of_no_module.py::test_a_manager_whose_waiting_tasks_were_all_cancelled_closes",
        ),
    ),
    40: (
        "cancelling wakes who waits",
        (
            "unit/test_future.py::test_cancelling_wakes_who_waits",
            "unit/test_future.py::test_wait_is_woken_by_every_kind_of_outcome",
        ),
    ),
    41: (
        "what is cancelled is freed",
        (
            "unit/test_future.py::test_mass_cancellation_empties_the_lane",
            "behaviour/test_memory.py::test_all_of_a_task_is_freed_with_its_future",
            "behaviour/test_memory.py::test_a_kept_future_of_a_task_that_never_ran_keeps_nothing_of_it",
        ),
    ),
    # closing
    42: (
        "stop drains, retries too",
        (
            "behaviour/test_shutdown.py::test_stop_runs_every_accepted_task_and_its_callbacks",
            "behaviour/test_shutdown.py::test_stop_drains_retries",
        ),
    ),
    43: (
        "stop ends during an outage",
        (
            "behaviour/test_shutdown.py::test_stop_returns_during_an_outage",
            "behaviour/test_shutdown.py::test_stop_during_an_outage_with_tasks_waiting_ends_after_create_timeout",
        ),
    ),
    44: (
        "kill cancels, signals, ends",
        (
            "behaviour/test_shutdown.py::test_kill_fails_what_waits_and_signals_what_runs",
            "behaviour/test_shutdown.py::test_kill_wakes_blocked_callers_and_standard_waiters",
        ),
    ),
    45: (
        "kill overtakes stop",
        (
            "behaviour/test_shutdown.py::test_kill_overtakes_a_stop_and_repeated_closes_agree",
            "behaviour/test_shutdown.py::test_stop_with_a_timeout_goes_on_as_kill",
        ),
    ),
    46: (
        "closing again, and at the same time",
        ("behaviour/test_shutdown.py::test_kill_overtakes_a_stop_and_repeated_closes_agree",),
    ),
    47: (
        "closing from inside",
        (
            "behaviour/test_shutdown.py::test_closing_from_a_task_does_not_lock_up",
            "behaviour/test_shutdown.py::test_closing_from_a_callback_does_not_lock_up",
            "behaviour/test_faults_threads.py::test_closing_from_any_hook_does_not_lock_up",
        ),
    ),
    48: (
        "closing waits for run_task",
        (
            "unit/test_run_task.py::test_stop_waits_for_resources_that_are_out_and_they_are_destroyed",
        ),
    ),
    49: (
        "the parent context's end leaves no caller waiting",
        (
            "behaviour/test_shutdown.py::test_cancelling_the_parent_context_drains_and_leaves_no_caller_waiting",
        ),
    ),
    50: (
        "the interpreter exits",
        (
            "behaviour/test_shutdown_processes.py::test_the_interpreter_exits_with_a_manager_nobody_stopped_and_finishes_its_tasks",
            "behaviour/test_shutdown_processes.py::test_the_interpreter_exits_with_a_stuck_task",
            "behaviour/test_faults_exit.py::test_interpreter_exit_gives_five_seconds_to_drain_and_little_more_to_the_killed",
        ),
    ),
    51: (
        "a dropped manager is collected",
        (
            "behaviour/test_shutdown_processes.py::test_a_forgotten_manager_is_stopped_and_collected",
            "behaviour/test_memory.py::test_a_manager_that_is_dropped_is_freed_with_all_that_it_was_given",
        ),
    ),
    52: (
        "forking",
        (
            "behaviour/test_shutdown_processes.py::test_a_forked_child_is_refused_and_exits_and_the_parent_is_unharmed",
            "behaviour/test_faults_exit.py::test_in_a_forked_child_every_use_of_a_busy_manager_returns_or_raises_and_the_parent_is_unharmed",
        ),
    ),
    53: (
        "Ctrl-C",
        (
            "behaviour/test_shutdown_processes.py::test_ctrl_c_in_a_blocked_call_raises_at_once_and_cancels_the_task",
            "behaviour/test_shutdown_processes.py::test_ctrl_c_in_the_middle_of_submissions_strands_nothing_and_refuses_what_it_ends",
            "behaviour/test_keyboard_interrupts.py::test_an_interrupt_at_every_moment_of_a_submission_strands_nothing",
        ),
    ),
    54: (
        "closing from a signal handler",
        (
            "behaviour/test_shutdown_processes.py::test_closing_from_a_signal_handler_in_the_middle_of_submitting_does_not_lock_up",
            "behaviour/test_faults_threads.py::test_a_signal_handler_may_close_at_every_line_of_a_submission",
        ),
    ),
    55: (
        "after the end nothing runs but what the report names",
        (
            "behaviour/test_shutdown.py::test_nothing_is_created_or_run_after_close_returned",
            "behaviour/test_shutdown.py::test_kill_leaves_stuck_threads_behind_and_names_them",
        ),
    ),
    # futures
    56: (
        "futures are standard ones",
        (
            "unit/test_future.py::test_wait_and_as_completed_work",
            "unit/aio/test_awaiting.py::test_what_the_async_methods_return_can_be_awaited",
            "behaviour/test_shutdown.py::test_kill_wakes_blocked_callers_and_standard_waiters",
        ),
    ),
    57: (
        "callbacks run once and in order",
        (
            "unit/test_future.py::test_callbacks_run_once_in_order_and_also_when_already_done",
            "unit/test_future.py::test_a_callback_that_is_added_while_the_task_is_settled_runs_once",
        ),
    ),
    58: (
        "a callback that raises stops no other",
        ("unit/test_future.py::test_one_raising_callback_stops_neither_the_rest_nor_the_worker",),
    ),
    59: (
        "every kind of exception is delivered",
        (
            "unit/test_future.py::test_every_kind_of_exception_is_delivered_and_the_worker_lives",
            "unit/test_future.py::test_an_exception_that_coroutines_cannot_be_thrown_neither_hangs_nor_ends_an_awaiter",
        ),
    ),
    60: ("nobody sets a second result", ("unit/test_future.py::test_nobody_else_settles_a_task",)),
    # metrics
    61: (
        "arrivals are accounted for",
        (
            "unit/test_manager.py::test_metrics_equal_reality",
            "behaviour/test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "behaviour/test_behaviours_of_no_module.py::test_at_rest_arrivals_are_what_ended_and_what_waits_and_what_runs",
        ),
    ),
    62: (
        "counters only grow",
        (
            "unit/test_metrics.py::test_totals_only_grow_and_are_exact_at_rest_whatever_the_order_of_events",
            "unit/test_metrics.py::test_the_reader_shows_no_arrival_twice_and_takes_none_back",
            "interleavings/test_metrics.py::test_a_reader_counts_every_task_once_while_its_worker_retires",
        ),
    ),
    63: (
        "counts are those of what happened",
        (
            "unit/test_manager.py::test_metrics_equal_reality",
            "behaviour/test_model.py::test_workers_that_run_freely_come_to_the_outcomes_and_counts_of_a_sequential_model",
            "unit/test_run_task.py::test_a_creation_that_fails_is_raised_and_counted",
        ),
    ),
    64: (
        "stats() waits for nobody",
        (
            "behaviour/test_behaviours_of_no_module.py::test_stats_wait_for_no_lock_and_work_in_every_state",
        ),
    ),
    # nesting
    65: (
        "the only worker submits",
        ("unit/test_manager.py::test_a_task_may_submit_to_its_own_manager_without_waiting",),
    ),
    66: (
        "run_task within run_task and within tasks",
        (
            "unit/test_run_task.py::test_a_temporary_resource_is_made_when_all_are_out",
            "unit/test_run_task.py::test_it_works_inside_a_task_of_the_same_manager",
        ),
    ),
    67: (
        "base - 1 waits within each other",
        (
            "unit/test_manager.py::test_nested_blocking_waits_work_up_to_one_less_than_the_workers",
            "unit/test_deadlock.py::test_base_minus_one_nested_waits_are_served",
        ),
    ),
    68: (
        "user code runs under no lock",
        (
            "behaviour/test_behaviours_of_no_module.py::test_no_lock_is_held_while_code_of_the_users_runs",
            "behaviour/test_behaviours_of_no_module.py::test_a_del_that_the_collector_runs_anywhere_may_use_the_manager",
            "unit/test_resources.py::test_nothing_of_the_users_runs_under_the_lock",
            "unit/test_context.py::test_callbacks_run_under_no_lock",
        ),
    ),
    # memory
    69: (
        "idle workers keep nothing",
        ("behaviour/test_memory.py::test_a_worker_that_has_just_parked_holds_nothing",),
    ),
    70: (
        "failures make no cycles",
        ("behaviour/test_memory.py::test_all_of_a_task_is_freed_with_its_future",),
    ),
    71: (
        "a closed manager keeps nothing",
        (
            "behaviour/test_shutdown_processes.py::test_a_closed_manager_keeps_nothing_of_its_tasks",
            "behaviour/test_memory.py::test_a_stopped_manager_that_is_kept_holds_no_resource_and_no_task",
        ),
    ),
    72: (
        "no thread outlives the end",
        (
            "behaviour/test_behaviours_of_no_module.py::test_when_the_end_is_reported_no_thread_is_left_but_the_abandoned",
            "behaviour/test_shutdown.py::test_kill_leaves_stuck_threads_behind_and_names_them",
        ),
    ),
    # free threading
    73: (
        "all of it without the GIL, with tiny switch intervals, and with seeded schedules",
        (
            "behaviour/test_races.py::test_nothing_is_lost_whatever_happens_at_once",
            "interleavings/test_future.py::test_both_are_told_whatever_the_schedule",
            "interleavings/test_queue.py::test_a_task_put_during_the_closing_is_run_or_refused_whatever_the_schedule",
            "soak/test_soak.py::test_a_short_soak_passes_and_prints_what_it_did",
        ),
    ),
}


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.slow
def test_every_behaviour_has_tests_that_exist() -> None:
    assert sorted(BEHAVIOURS) == list(range(1, 74))
    assert [number for number, (words, names) in BEHAVIOURS.items() if not (words and names)] == []
    named = [name.partition("::") for _, names in BEHAVIOURS.values() for name in names]
    there = {file: names_in(TESTS / file) for file, _, _ in named}
    assert [f"{file}::{test}" for file, _, test in named if test not in there[file]] == []
