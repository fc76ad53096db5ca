"""A link is cut under a visit and healed: the visit goes on, is heard of when the link is back, and is not repeated."""

import time
from collections.abc import Callable

import pytest

from tests.faults.trial import ENDS_S, Trial
from tests.processes import last_until
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Record = Callable[[str, object], None]

# A host is suspect after so long without an answer, and its block elsewhere; what a busy machine may need on top.
SUSPECT_S = 5.0
ELSEWHERE_S = 25.0
GRACE_S = 10.0


@pytest.mark.parametrize("cut_s", [10.0, pytest.param(30.0, marks=pytest.mark.soak)])
def test_link_of_a_host_cut_for_less_than_a_visit_repeats_none(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record, cut_s: float
) -> None:
    # both hosts have a visit that outlasts the cut: nobody is free to repeat the one that is not heard of
    one = trial(groups=2, blocks=1, sleep_s=0.4 * cut_s)
    driver = one.start()
    one.until_a_runner_measures("one")
    one.until_a_runner_measures("two")
    bed["two"].cut()
    since = time.monotonic()
    one.until_said("two is suspect")
    record_property("suspect_s", round(time.monotonic() - since, 2))
    assert time.monotonic() - since < SUSPECT_S + GRACE_S
    last_until(since + cut_s)
    before = len(one.events("run_ended"))
    bed["two"].heal()
    healed = time.monotonic()
    one.until("SELECT 1 FROM event WHERE event = 'run_ended' AND host = 'two'")
    record_property("heard_after_heal_s", round(time.monotonic() - healed, 2))
    assert driver.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    assert [state for _, _, state, _ in one.visits()] == ["finished", "finished"]
    assert before < len(one.events("run_ended"))


@pytest.mark.soak
def test_link_of_a_host_cut_for_120_s_repeats_its_block_once_and_accepts_one(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record
) -> None:
    # one group, so that the other host may be free when the block is; enough blocks to be at work when the link is back
    one = trial(blocks=24, sleep_s=2.0)
    driver = one.start()
    visit = one.until_a_runner_measures("two").visit
    bed["two"].cut()
    since = time.monotonic()
    (block,) = one.rows("SELECT block FROM visit WHERE id = ?", visit)[0]
    one.until_said("two is suspect")
    record_property("suspect_s", round(time.monotonic() - since, 2))
    one.until("SELECT 1 FROM visit WHERE block = ? AND id > ?", block, visit)
    record_property("elsewhere_s", round(time.monotonic() - since, 2))
    # the other host may have begun a visit just before
    assert time.monotonic() - since < ELSEWHERE_S + GRACE_S + 10
    last_until(since + 120)
    assert driver.poll() is None, one.said
    bed["two"].heal()
    healed = time.monotonic()
    one.until("SELECT 1 FROM visit WHERE host = 'two' AND id > ?", visit)
    record_property("at_work_after_heal_s", round(time.monotonic() - healed, 2))
    assert driver.wait(2 * ENDS_S) == 0, one.said
    one.assert_complete()
    assert one.rows("SELECT state FROM visit WHERE id = ?", visit) == [("superseded",)]
    assert one.rows("SELECT DISTINCT outcome FROM run WHERE visit = ?", visit) == [("ok",)]
    assert len(one.rows("SELECT id FROM visit WHERE block = ?", block)) == 2


@pytest.mark.soak
@pytest.mark.parametrize("cut_s", [10.0, 30.0, 120.0])
def test_laptop_off_the_network_repeats_no_visit_and_hears_of_all_when_it_is_back(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record, cut_s: float
) -> None:
    # the visits end while nobody hears them
    one = trial(groups=2, blocks=1, sleep_s=min(4.0, 0.2 * cut_s))
    driver = one.start()
    one.until_a_runner_measures("one")
    one.until_a_runner_measures("two")
    bed.cut()
    since = time.monotonic()
    one.until_said("is suspect")
    record_property("suspect_s", round(time.monotonic() - since, 2))
    last_until(since + cut_s)
    assert len(one.events("visit_ended")) == 0
    bed.heal()
    healed = time.monotonic()
    assert driver.wait(ENDS_S) == 0, one.said
    record_property("done_after_heal_s", round(time.monotonic() - healed, 2))
    one.assert_complete()
    assert [state for _, _, state, _ in one.visits()] == ["finished", "finished"]
