"""The ledger where Python code does not run at each step, or in another thread than the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from kdhooks.ledger import OFF, CurrentLedger, Ledger
from tests.core.ledger_loops import Traced, ends, loss, opened, told_nothing


def in_graph(ledger: Ledger, watch: Traced, index: int) -> None:
    ends(ledger, watch, "begin")
    watch.within = True
    if index == 0:
        loss(ledger, watch)
        ledger.step_of(SimpleNamespace(shape=(None, 3)))
        ends(ledger, watch, "end")
    watch.within = False
    watch.now += 32
    ends(ledger, watch, "end")
    watch.now += 8


def test_a_step_in_a_graph_is_one_whole_and_its_tracing_is_no_time_of_a_part() -> None:
    watch = Traced()
    ledger, _ = opened(watch)
    for index in range(3):
        in_graph(ledger, watch, index)
    ledger.close()
    assert ledger.rows.sums == {"graph": 64.0, "ours": 1.0, "data": 16.0}
    found = ledger.to_dict()
    assert found["in_graph"] and found["floor"] is None
    assert found["notes"] == [
        "steps run in a graph: the ledger sees each as a whole, and the inside of a graph isn't divided"
    ]


def test_a_graph_that_nobody_stands_around_is_not_timed_and_the_note_says_how() -> None:
    watch = Traced()
    ledger, _ = opened(watch)
    watch.within = True
    loss(ledger, watch)
    watch.within = False
    ledger.close()
    assert str(ledger).splitlines()[1:] == [
        "note: no step was timed: the loss is computed in a graph (a tf.function), where Python sees the",
        "  tracing only; call on_step_begin() and on_step_end() outside of it, or let fit() or the callback",
        "  train",
    ]


def in_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_parts_of_other_threads_are_summed_beside_the_steps() -> None:
    ledger, watch = opened()

    def elsewhere() -> None:
        with ledger.part("teacher"):
            time.sleep(0.02)
            with ledger.part("cache"):
                time.sleep(0.04)

    for _ in range(3):
        watch.now += 16
        with ledger.border("loss"):
            in_thread(elsewhere)
    ledger.close()
    assert ledger.rows.sums == {"student": 32.0, "ours": 0.0}
    found = ledger.to_dict()["elsewhere"]
    assert {name: part["times"] for name, part in found.items()} == {"teacher": 3, "cache": 3}
    assert found["cache"]["sum"] >= 0.12
    assert found["teacher"]["sum"] >= 0.06


def test_losses_of_other_threads_are_not_timed_and_a_note_says_so() -> None:
    ledger, watch = opened()
    in_thread(lambda: told_nothing(ledger, watch))
    told_nothing(ledger, watch)
    told_nothing(ledger, watch)
    ledger.close()
    assert ledger.rows.count == 1
    assert ledger.to_dict()["notes"][-1] == (
        "losses were computed in other threads than the one that opened the profile, and are not in it"
    )


def test_counts_of_many_threads_are_whole() -> None:
    ledger, _ = opened()

    def counting() -> None:
        for _ in range(5_000):
            ledger.count("hits", 1)

    threads = [threading.Thread(target=counting) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.counts == {"hits": 20_000}


def test_code_of_a_graph_finds_the_ledger_of_the_moment() -> None:
    owner = SimpleNamespace(ledger=OFF)
    current = CurrentLedger(owner)
    current.count("hits", 1)
    with current.part("cache"):
        pass
    ledger, watch = opened()
    owner.ledger = ledger
    current.count("hits", 2)
    watch.now += 16
    with ledger.border("loss"), current.part("cache"):
        watch.now += 4
    told_nothing(ledger, watch)
    ledger.close()
    assert (ledger.counts, ledger.first) == ({"hits": 2}, {"student": 16, "ours": 0, "cache": 4})
