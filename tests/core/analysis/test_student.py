import pytest
from scipy import stats

from core.analysis import student

DEGREES = [1, 2, 3, 4, 5, 6, 7, 8, 12, 19, 30, 101, 998]


@pytest.mark.parametrize("df", DEGREES)
@pytest.mark.parametrize("t", [0.0, 0.01, 0.7, 1.96, 4.3, 31.8])
def test_within_any_t_equals_scipy(t: float, df: int) -> None:
    assert student.within(t, df) == pytest.approx(1 - 2 * stats.t.sf(t, df), abs=1e-12)


@pytest.mark.parametrize("df", DEGREES)
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_quantile_any_level_equals_scipy(level: float, df: int) -> None:
    assert student.quantile(level, df) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=1e-9)


def test_outside_infinite_t_is_zero() -> None:
    assert student.outside(float("inf"), 3) == 0.0
    assert student.outside(-2.0, 3) == student.outside(2.0, 3)
