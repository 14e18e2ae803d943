"""Interleavings explored, not sampled: `frontrun` runs tasker's own classes in every order that makes a difference.

Each pair is explored as it is, and again with deliberately broken methods, which the same exploration must catch.
A test prints how many interleavings there were (`-rP`); on CPython 3.11 to 3.13 these:

    pair                           all of them            random  what is broken, and caught
    put, get                       68; 90 with the lock           looks once; stays listed; wakes too early
    two puts, one idle worker      107 (1 preemption)     100     the same three
    put, close                     191; 86 (1 preemption) 100     no look at the flag afterwards; lanes looked at first
    cancel, start                  38                             tests and then sets
    cancel, retry                  132                            looks, then announces
    result(), timed wait           72, 72, 14             100     looks once; wakes too early; no lock; forgets others
    timeout, result                9                      100     settles without the right
    retire, put                    10, 10                 100     leaves the announcement; does not wake
    hand-back, close (and borrow)  8, 33, 29              100     keeps, closes, or ends a loan outside the lock
    kill, finishing task           2                      25      settles without the right
    stop, stop                     55 (the requests)      40      tells of the end too early
    stop, kill                     4 (the requests)       15, 15  does not overtake
    abort, return                  149, 493               100     does not wait; tests and then sets
    abandon, return                20, 1                  100     without the right, on either side
    fold and retire, metrics()     6 (1 preemption)       100     publishes twice; retires outside the lock

Orders of steps that do not touch the same thing count once. "1 preemption": those in which at most once a thread is
interrupted that could go on; without that limit there are tens of thousands. Random schedules are seeded and switch
threads between any two instructions; from Python 3.12 on there are a quarter as many. What goes through `__dict__`
(the waiters of `concurrent.futures`) frontrun does not see, so that is left to other tests."""
