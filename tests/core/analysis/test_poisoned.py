"""Poison job or poison host: two hosts must agree before a job is called the former."""

from hypothesis import given
from hypothesis import strategies as st

from core.failures import Blame, Kind, blame
from core.ledger.completeness import condemned
from tests.core.analysis.conftest import Arm, Timed, make_series

ARMS = [Arm("ref", "ref", {"backend": "ragged_dot"}), Arm("arm", "ref", {"backend": "blocked"})]
ENDS = st.lists(st.tuples(st.sampled_from(["h1", "h2"]), st.sampled_from([None, *Kind])), max_size=8)


@given(ENDS)
def test_job_is_poisoned_if_and_only_if_two_hosts_failed_it_ambiguously(ends: list[tuple[str, Kind | None]]) -> None:
    blocks = [
        Timed({"ref": [20], "arm": [10] if kind is None else kind.value}, host, accepted=False) for host, kind in ends
    ]
    found = condemned(make_series(ARMS, blocks)).get("arm")

    strikes: list[str] = []
    for visit, (host, kind) in enumerate(ends, start=1):
        match blame(kind) if kind is not None else None:
            case None:
                strikes = []
            case Blame.JOB:
                assert found is not None
                assert (found.kind, found.poisoned, found.visit) == (kind, False, visit)
                return
            case Blame.AMBIGUOUS if strikes:
                assert found is not None
                assert (found.kind, found.poisoned, found.visit) == (kind, host not in strikes, visit)
                return
            case Blame.AMBIGUOUS:
                strikes.append(host)
            case Blame.HOST | Blame.NOBODY:
                pass
    assert found is None
