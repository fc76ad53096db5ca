import pytest

from core.analysis.estimate import Estimate
from core.analysis.verdict import Evidence, Verdict, judge

BAND = 0.005


def _of(mean: float, sd: float | None, blocks: int = 4, borrowed: bool = False) -> Evidence:
    return Evidence(False, None, Estimate(mean, blocks, sd, borrowed))


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (_of(0.10, 0.001), Verdict.WIN),
        (_of(-0.10, 0.001), Verdict.LOSS),
        (_of(0.001, 0.0005), Verdict.EQUIVALENT),
        (_of(-0.004, 0.0001), Verdict.EQUIVALENT),
        (_of(0.10, 0.2), Verdict.INCONCLUSIVE),
        (_of(0.006, 0.0015), Verdict.INCONCLUSIVE),  # it excludes 0 and reaches into the band
        (_of(0.10, None, blocks=2), Verdict.INCONCLUSIVE),
        (_of(0.10, 0.001, blocks=1, borrowed=True), Verdict.WIN),
        (Evidence(False, None, None), Verdict.INCONCLUSIVE),
        (Evidence(True, None, Estimate(0.1, 4, 0.001, False)), Verdict.NO_OP),
        (Evidence(False, "other jax", Estimate(0.1, 4, 0.001, False)), Verdict.NOT_COMPARABLE),
        (Evidence(True, "other jax", Estimate(0.1, 4, 0.001, False)), Verdict.NO_OP),
    ],
)
def test_judge_one_comparison_alone(evidence: Evidence, verdict: Verdict) -> None:
    assert judge([evidence], BAND) == [verdict]


# p beyond the band: 0.0305, enough alone and not among twenty that show nothing
_BARELY = _of(0.011, 0.0031)
_NOTHING = _of(0.0051, 0.5)


def test_judge_one_small_effect_among_many_is_likely() -> None:
    assert judge([_BARELY], BAND) == [Verdict.WIN]
    assert judge([_BARELY, *[_NOTHING] * 19], BAND)[0] is Verdict.LIKELY
    assert judge([_of(-0.011, 0.0031), *[_NOTHING] * 19], BAND)[0] is Verdict.LIKELY


@pytest.mark.parametrize("beside", [Evidence(True, None, _NOTHING.estimate), Evidence(False, "x", _NOTHING.estimate)])
def test_judge_what_is_no_comparison_does_not_count_among_the_many(beside: Evidence) -> None:
    assert judge([_BARELY, *[beside] * 19], BAND)[0] is Verdict.WIN
