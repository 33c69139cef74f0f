"""Assignment to workers: groups stay together, load is even, lost requests are tried again, results count once."""

from __future__ import annotations

import random

from rl.rollout.dispatcher import Capacity, Dispatcher
from rl.rollout.request import RolloutRequest
from tests.helpers.stand_in import group


def names(items: list[RolloutRequest]) -> list[str]:
    return [item.trajectory_id for item in items]


def test_groups_stay_together_and_go_to_the_least_loaded():
    groups = [group("a", 4), group("b", 2), group("c", 2), group("d", 2)]
    dispatcher = Dispatcher(groups, Capacity(running=6, queued=0), max_attempts=2)
    batches = dispatcher.assign([0, 1])
    assert batches == {0: [*groups[0], *groups[3]], 1: [*groups[1], *groups[2]]}
    assert [dispatcher.load(worker) for worker in (0, 1)] == [6, 4]


def test_a_worker_gets_more_as_it_has_capacity_and_finishes_a_group_before_the_next():
    groups = [group("a"), group("b"), group("c")]
    dispatcher = Dispatcher(groups, Capacity(running=5, queued=1), max_attempts=2)
    assert dispatcher.assign([0]) == {0: groups[0] + groups[1][:2]}
    for number, item in enumerate(groups[0]):
        assert dispatcher.accept(0, item.trajectory_id)
        assert dispatcher.assign([0]) == {0: [(groups[1][2:] + groups[2])[number]]}
    assert dispatcher.unfinished == 8


def test_near_the_end_no_worker_queues_requests():
    groups = [group("a", 4), group("b", 4)]
    dispatcher = Dispatcher(groups, Capacity(running=2, queued=2), max_attempts=2)
    assert {worker: len(batch) for worker, batch in dispatcher.assign([0, 1]).items()} == {0: 4, 1: 2}
    assert dispatcher.assign([0, 1]) == {}, "two are left, and each worker has as much as it runs at once"


def test_at_the_end_siblings_go_where_a_slot_is_free():
    groups = [group("a", 4), group("b", 1)]
    dispatcher = Dispatcher(groups, Capacity(running=2, queued=0), max_attempts=2)
    assert dispatcher.assign([0, 1]) == {0: groups[0][:2], 1: [*groups[1], groups[0][3]]}
    dispatcher.accept(1, "0/b/0")
    assert dispatcher.assign([1]) == {1: [groups[0][2]]}
    assert dispatcher.assign([0, 1]) == {}


def test_a_group_is_not_split_if_its_worker_has_slots_for_it():
    dispatcher = Dispatcher([group("a", 8)], Capacity(running=8, queued=0), max_attempts=2)
    assert {worker: len(batch) for worker, batch in dispatcher.assign([0, 1]).items()} == {0: 8}


def test_without_capacity_a_worker_gets_one_whole_group_at_a_time():
    groups = [group("a", 8), group("b", 2), group("c", 2)]
    dispatcher = Dispatcher(groups, None, max_attempts=3)
    assert dispatcher.assign([0, 1]) == {0: groups[0], 1: groups[1]}
    dispatcher.accept(1, "0/b/0")
    assert dispatcher.assign([0, 1]) == {}
    dispatcher.accept(1, "0/b/1")
    dispatcher.take_back(0)
    assert dispatcher.assign([0, 1]) == {0: groups[0], 1: groups[2]}


def test_the_started_group_of_a_lost_worker_is_not_lost():
    groups = [group("a", 4)]
    dispatcher = Dispatcher(groups, Capacity(running=2, queued=0), max_attempts=3)
    dispatcher.assign([0])
    dispatcher.take_back(0)
    assert dispatcher.unfinished == 4
    assert names(dispatcher.assign([1])[1]) == ["0/a/0", "0/a/1"]


def test_only_results_in_flight_are_accepted_and_only_once():
    dispatcher = Dispatcher([group("a", 1)], Capacity(4, 0), max_attempts=2)
    dispatcher.assign([0])
    assert not dispatcher.accept(1, "0/a/0"), "of another worker"
    assert dispatcher.accept(0, "0/a/0")
    assert not dispatcher.accept(0, "0/a/0"), "a duplicate"
    assert not dispatcher.accept(0, "0/b/0"), "of another run"
    assert dispatcher.unfinished == 0


def test_requests_of_a_lost_worker_come_before_waiting_groups():
    groups = [group("a"), group("b"), group("c")]
    dispatcher = Dispatcher(groups, Capacity(8, 0), max_attempts=3)
    dispatcher.assign([0])
    dispatcher.accept(0, "0/a/1")
    assert dispatcher.take_back(0) == []
    assert dispatcher.load(0) == 0
    assert names(dispatcher.assign([1])[1]) == ["0/a/0", "0/a/2", "0/a/3", *names(groups[1]), "0/c/0"]
    assert not dispatcher.accept(0, "0/a/0"), "late: the lost worker has nothing in flight"
    assert dispatcher.accept(1, "0/a/0")


def test_the_last_attempt_is_made_alone_and_then_the_request_is_given_up():
    dispatcher = Dispatcher([group("a", 2), group("b", 1)], Capacity(8, 0), max_attempts=2)
    dispatcher.assign([0])
    dispatcher.take_back(0)
    batches = dispatcher.assign([0, 1])
    assert {worker: names(batch) for worker, batch in batches.items()} == {0: ["0/a/0"], 1: ["0/a/1"]}
    assert names(dispatcher.take_back(0)) == ["0/a/0"], "tried twice"
    assert dispatcher.accept(1, "0/a/1")
    assert names(dispatcher.assign([0, 1])[0]) == ["0/b/0"]


def test_nothing_joins_a_request_that_runs_alone():
    dispatcher = Dispatcher([group("a", 1), group("b", 1), group("c", 1)], Capacity(2, 0), max_attempts=2)
    dispatcher.assign([0])
    dispatcher.accept(0, "0/b/0")
    dispatcher.take_back(0)
    assert names(dispatcher.assign([0])[0]) == ["0/a/0"]
    assert dispatcher.assign([0]) == {}
    assert dispatcher.accept(0, "0/a/0")
    assert names(dispatcher.assign([0])[0]) == ["0/c/0"]


def test_a_worker_takes_groups_side_by_side_again_after_a_request_that_ran_alone():
    groups = [group(name, 1) for name in "abcde"]
    dispatcher = Dispatcher(groups, Capacity(3, 0), max_attempts=2)
    assert names(dispatcher.assign([0])[0]) == ["0/a/0", "0/b/0", "0/c/0"]
    for name in "bc":
        dispatcher.accept(0, f"0/{name}/0")
    dispatcher.take_back(0)
    assert names(dispatcher.assign([0])[0]) == ["0/a/0"]
    dispatcher.accept(0, "0/a/0")
    assert names(dispatcher.assign([0])[0]) == ["0/d/0", "0/e/0"]


def test_a_worker_that_is_lost_with_a_request_that_ran_alone_takes_groups_side_by_side_again():
    groups = [group(name, 1) for name in "abcd"]
    dispatcher = Dispatcher(groups, Capacity(2, 0), max_attempts=2)
    dispatcher.assign([0])
    dispatcher.accept(0, "0/b/0")
    dispatcher.take_back(0)
    assert names(dispatcher.assign([0])[0]) == ["0/a/0"]
    assert names(dispatcher.take_back(0)) == ["0/a/0"]
    assert names(dispatcher.assign([0])[0]) == ["0/c/0", "0/d/0"]


def test_a_free_worker_takes_no_sibling_while_another_request_runs_alone_on_it():
    dispatcher = Dispatcher([group("a", 1), group("b", 3)], Capacity(2, 0), max_attempts=2)
    dispatcher.assign([0])
    dispatcher.take_back(0)
    batches = dispatcher.assign([0])
    assert names(batches[0]) == ["0/a/0"], "alone, whatever else waits"
    assert dispatcher.assign([0]) == {}


def test_the_last_attempts_of_siblings_run_one_after_the_other():
    dispatcher = Dispatcher([group("a", 3)], Capacity(8, 0), max_attempts=2)
    dispatcher.assign([0])
    dispatcher.take_back(0)
    for sibling in range(3):
        assert names(dispatcher.assign([0])[0]) == [f"0/a/{sibling}"]
        assert dispatcher.accept(0, f"0/a/{sibling}")
    assert dispatcher.unfinished == 0


def test_with_one_attempt_no_request_is_tried_again():
    dispatcher = Dispatcher([group("a", 2)], Capacity(8, 0), max_attempts=1)
    dispatcher.assign([0])
    assert names(dispatcher.take_back(0)) == ["0/a/0", "0/a/1"]
    assert dispatcher.unfinished == 0


def test_cancel_returns_all_unfinished_requests():
    dispatcher = Dispatcher([group("a", 2), group("b", 2)], Capacity(2, 0), max_attempts=3)
    dispatcher.assign([0])
    dispatcher.accept(0, "0/a/0")
    assert sorted(names(dispatcher.cancel())) == ["0/a/1", "0/b/0", "0/b/1"]
    assert dispatcher.unfinished == 0
    assert not dispatcher.accept(0, "0/a/1"), "late"


def test_whatever_happens_every_request_is_finished_exactly_once():
    rng = random.Random(0)
    for _ in range(200):
        groups = [group(f"t{number}", rng.randint(1, 5)) for number in range(rng.randint(1, 6))]
        capacity = rng.choice([None, Capacity(rng.randint(1, 8), rng.randint(0, 4))])
        dispatcher = Dispatcher(groups, capacity, max_attempts=rng.randint(1, 4))
        in_flight: dict[int, list[RolloutRequest]] = {0: [], 1: [], 2: []}
        finished: list[str] = []
        while dispatcher.unfinished:
            for worker, batch in dispatcher.assign([w for w in in_flight if rng.random() < 0.7]).items():
                in_flight[worker] += batch
            worker = rng.choice(list(in_flight))
            if rng.random() < 0.2:
                finished += names(dispatcher.take_back(worker))
                in_flight[worker] = []
            elif in_flight[worker]:
                item = in_flight[worker].pop(rng.randrange(len(in_flight[worker])))
                assert dispatcher.accept(worker, item.trajectory_id)
                finished.append(item.trajectory_id)
        assert sorted(finished) == sorted(name for each in groups for name in names(each))
