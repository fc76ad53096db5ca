import math
from types import SimpleNamespace
from typing import Any

import pytest

from core.analysis.closing import closing
from core.analysis.compare import BAND_ACCELERATOR, BAND_CPU, Comparison, compare, needs_scatter, scatter_of
from core.analysis.variance import Components
from core.analysis.verdict import Verdict
from core.analysis.wording import sentence
from core.ledger.rows import Record

TWICE = [(20.0, 10.0), (20.1, 10.0), (19.9, 10.0)]


def _only(record: Record, scatter: Components | None = None) -> Comparison:
    (found,) = compare(record, scatter)
    return found


def test_compare_faster_arm_has_a_ratio_above_one_and_wins(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms(TWICE))
    assert found.verdict is Verdict.WIN
    assert math.exp(found.estimate.mean) == pytest.approx(2.0, rel=0.01)
    assert sentence(found, "blocked", "ragged_dot").startswith(
        "blocked is 2.0x faster than ragged_dot (95 % interval 2.0-2.0;"
    )
    assert "3 blocks, win; exploratory: one sitting" in sentence(found, "blocked", "ragged_dot")


def test_compare_slower_arm_loses_and_says_slower(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms([(10.0, 11.0), (10.0, 11.01), (10.0, 10.99), (10.0, 11.0)]))
    assert found.verdict is Verdict.LOSS
    assert sentence(found, "a", "b").startswith("a is 10.0 % slower than b (95 % interval 9.9 to 10.1 %")


def test_compare_drift_between_blocks_cancels(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms([(20.0, 10.0), (40.0, 20.0), (80.0, 40.0)]))
    assert found.estimate.mean == pytest.approx(math.log(2))
    assert found.estimate.sd == pytest.approx(0.0, abs=1e-12)


def test_compare_iterations_are_no_replicates_and_their_median_counts(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    record = lab.series(arms, [lab.Timed({"ref": [20, 20, 999], "arm": [10, 10, 1]})] * 3)
    found = _only(record)
    assert (found.estimate.blocks, found.estimate.mean) == (3, pytest.approx(math.log(2)))


def test_compare_equal_arms_are_equivalent_inside_the_band(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms([(10.0, 10.01), (10.0, 9.99), (10.0, 10.0), (10.0, 10.005)]))
    assert (found.verdict, found.band) == (Verdict.EQUIVALENT, BAND_CPU)
    assert "equivalent within the noise band of 5 %" in sentence(found, "a", "b")


def test_compare_noise_band_series_own_before_the_devices(lab: SimpleNamespace) -> None:
    pairs = [(10.0, 10.05), (10.0, 9.95), (10.0, 10.01), (10.0, 9.99)]
    tpu = {"platform": "tpu", "device_kind": "TPU v5p"}
    assert _only(lab.two_arms(pairs, lab.Details(facts={"ref": tpu, "arm": tpu}))).band == BAND_ACCELERATOR
    assert _only(lab.two_arms(pairs, lab.Details(measure={"noise_band": 0.2}))).band == 0.2


def test_compare_scattered_arm_is_inconclusive_and_says_how_many_blocks(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms([(10.0, 8.0), (10.0, 10.5), (10.0, 9.0)]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.needed is not None and found.needed > 3
    assert f"set blocks = {found.needed} in [measure]" in sentence(found, "a", "b")


def test_compare_one_program_on_the_same_inputs_is_a_no_op(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms(TWICE, lab.Details(program={"ref": "p", "arm": "p"})))
    assert found.verdict is Verdict.NO_OP
    assert "backend changes nothing" in sentence(found, "a", "b")


def test_compare_one_program_on_other_inputs_is_a_comparison(lab: SimpleNamespace) -> None:
    details = lab.Details(program={"ref": "p", "arm": "p"}, inputs={"arm": "other"})
    assert _only(lab.two_arms(TWICE, details)).verdict is Verdict.WIN


def test_compare_one_program_under_other_settings_is_a_comparison(lab: SimpleNamespace) -> None:
    arms = [
        lab.Arm("ref", "ref", {"env.XLA_FLAGS": ""}, {"env": {}}),
        lab.Arm("arm", "ref", {"env.XLA_FLAGS": "--fast"}, {"env": {"XLA_FLAGS": "--fast"}}),
    ]
    blocks = [lab.timed(pair) for pair in TWICE]
    assert _only(lab.series(arms, blocks, lab.Details(program={"ref": "p", "arm": "p"}))).verdict is Verdict.WIN


def test_compare_no_block_yet_is_neither_a_no_op_nor_a_verdict(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms(TWICE, accepted=False))
    assert (found.verdict, found.estimate) == (Verdict.INCONCLUSIVE, None)
    assert sentence(found, "a", "b") == "a has no block to compare with b: waiting: 0 of 3 blocks"


def test_compare_other_environment_is_not_comparable(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms(TWICE, lab.Details(facts={"arm": {**lab.CPU, "jax": "0.11"}})))
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert "jax is '0.11' against '0.10.2'" in sentence(found, "a", "b")


def test_compare_settings_that_are_not_the_axis_are_not_comparable(lab: SimpleNamespace) -> None:
    arms = [
        lab.Arm("ref", "ref", {"null": "0.0"}, {"env": {"LIBTPU_INIT_ARGS": "--x"}}),
        lab.Arm("arm", "ref", {"null": "0.1"}, {"env": {}}),
    ]
    blocks = [lab.timed(pair) for pair in TWICE]
    found = _only(lab.series(arms, blocks))
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert "LIBTPU_INIT_ARGS is 'unset' against '--x'" in sentence(found, "a", "b")


@pytest.mark.parametrize("key", ['"env.LIBTPU_INIT_ARGS"', "env.LIBTPU_INIT_ARGS"])
def test_compare_settings_of_the_bundle_under_test_are_comparable(lab: SimpleNamespace, key: str) -> None:
    arms = [
        lab.Arm("ref", "ref", {"flags": "plain"}, {"env": {}}),
        lab.Arm("arm", "ref", {"flags": "big"}, {"env": {"LIBTPU_INIT_ARGS": "--x"}}),
    ]
    text = f'[bundles.flags]\nplain = {{}}\nbig = {{ {key} = "--x" }}\n'
    found = _only(lab.series(arms, [lab.timed(pair) for pair in TWICE], lab.Details(text=text)))
    assert found.verdict is Verdict.WIN


def test_compare_other_numbers_of_devices_is_per_device_and_says_so(lab: SimpleNamespace) -> None:
    found = _only(lab.two_arms(TWICE, lab.Details(devices={"arm": 4})))
    assert found.verdict is Verdict.LOSS
    assert math.exp(found.estimate.mean) == pytest.approx(0.5, rel=0.01)
    assert "per device: 4 devices against 1" in sentence(found, "a", "b")


def test_compare_failed_or_unaccepted_or_closed_blocks_are_not_counted(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    good = lab.timed((20.0, 10.0))
    worse = lab.timed((20.0, 90.0))
    broken = lab.Timed({"ref": "host_lost", "arm": [90_000_000]})
    record = lab.series(
        arms, [good, good, good, worse._replace(accepted=False), worse._replace(closed="cancelled"), broken]
    )
    found = _only(record)
    assert (found.estimate.blocks, found.standing.blocks) == (3, 3)
    assert found.estimate.mean == pytest.approx(math.log(2))


def test_compare_retired_cells_are_left_out(lab: SimpleNamespace) -> None:
    assert compare(lab.two_arms(TWICE, lab.Details(retired={"arm": "no longer named"}))) == []


def test_compare_two_blocks_borrow_the_scatter_of_the_ledger(lab: SimpleNamespace) -> None:
    few = lab.two_arms([(20.0, 10.0), (20.1, 10.0)])
    assert needs_scatter(few) and not needs_scatter(lab.two_arms(TWICE))
    assert _only(few).verdict is Verdict.INCONCLUSIVE
    many = [lab.two_arms([(20.0, 10.0), (20.2, 10.0), (19.8, 10.0), (20.0, 10.1)])] * 5
    scatter = scatter_of(many, frozenset({"cpu"}))
    assert scatter_of(many, frozenset({"TPU v5p"})) is None
    found = _only(few, scatter=scatter)
    assert found.verdict is Verdict.WIN
    assert "from the ledger's own scatter; 2 blocks, win; exploratory: 2 blocks" in sentence(found, "a", "b")


def test_compare_agreeing_seeds_on_two_hosts_are_stable(lab: SimpleNamespace) -> None:
    def arms(seeds: int) -> list[object]:
        return [
            lab.Arm(f"{b}{s}", f"ref{s}", {"backend": b, "seed": str(s)}, {"backend": b, "seed": s})
            for s in range(seeds)
            for b in ("ref", "arm")
        ]

    def blocks(seeds: int) -> list[object]:
        times = {f"{b}{s}": [ns] * 5 for s in range(seeds) for b, ns in (("ref", 20_000), ("arm", 10_000))}
        return [lab.Timed(times, host=h, sitting=h) for h in ("h1", "h1", "h2")]

    assert [c.confidence.level for c in compare(lab.series(arms(2), blocks(2)))] == ["stable", "stable"]
    assert [c.confidence.why for c in compare(lab.series(arms(1), blocks(1)))] == ["one seed"]


def _sweep(lab: SimpleNamespace, factors: dict[int, float], wobble: float = 0.001) -> object:
    arms = [lab.Arm(f"{b}{e}", f"ref{e}", {"backend": b, "experts": str(e)}) for e in factors for b in ("ref", "arm")]
    blocks = []
    for shift in (-wobble, 0.0, wobble):
        times = {f"ref{e}": [10_000_000] * 5 for e in factors}
        times |= {f"arm{e}": [round(10_000_000 / f * (1 + shift))] * 5 for e, f in factors.items()}
        blocks.append(lab.Timed({job: times[job] for arm in arms for job in [arm.job]}))
    return lab.series(arms, blocks)


def test_closing_monotone_ratios_tell_the_trend_and_the_geometric_mean(lab: SimpleNamespace) -> None:
    (told,) = closing(compare(_sweep(lab, {4: 1.3, 16: 3.9, 8: 2.3})))
    assert told == (
        "backend arm against ref: win in 3 of 3 cells; x1.30, x2.3, x3.9 at experts 4, 8, 16; "
        "geometric mean x2.3; the gap grows with experts"
    )


def test_closing_a_slower_arm_that_falls_behind_further_is_a_growing_gap(lab: SimpleNamespace) -> None:
    (told,) = closing(compare(_sweep(lab, {4: 0.8, 8: 0.5, 16: 0.25})))
    assert told.endswith("the gap grows with experts")


@pytest.mark.parametrize(
    ("factors", "ending"),
    [
        ({4: 3.9, 8: 2.3, 16: 1.3}, "the gap shrinks with experts"),
        ({4: 0.7, 8: 1.1, 16: 1.6}, "the ratio rises with experts"),
        ({4: 1.3, 8: 3.9, 16: 2.3}, "geometric mean x2.3"),
    ],
)
def test_closing_says_only_the_trend_there_is(lab: SimpleNamespace, factors: dict[int, float], ending: str) -> None:
    (told,) = closing(compare(_sweep(lab, factors)))
    assert told.endswith(ending)


def test_closing_monotone_by_less_than_the_noise_is_no_trend(lab: SimpleNamespace) -> None:
    (told,) = closing(compare(_sweep(lab, {4: 2.00, 8: 2.01, 16: 2.02}, wobble=0.05)))
    assert "with experts" not in told


def test_closing_a_swept_axis_under_test_has_a_trend_and_no_mean(lab: SimpleNamespace) -> None:
    arms = [lab.Arm(f"n{n}", "n0.0", {"null": n}) for n in ("0.0", "0.1", "0.5")]
    times = {"n0.0": 10_000_000, "n0.1": 9_000_000, "n0.5": 5_000_000}
    blocks = [lab.Timed({j: [ns + jitter] * 3 for j, ns in times.items()}) for jitter in (0, 500, 900)]
    (told,) = closing(compare(lab.series(arms, blocks)))
    assert told == "null against 0.0: win in 2 of 2 cells; x1.11, x2.0 at null 0.1, 0.5; the gap grows with null"


def test_closing_a_single_comparison_needs_no_closing_sentence(lab: SimpleNamespace) -> None:
    assert closing(compare(lab.two_arms(TWICE))) == []


# -- code

OLD = "0" * 40


def of_codes(lab: SimpleNamespace, details: Any, arm: str = "", reference: str = OLD) -> Any:
    arms = [
        lab.Arm("ref", "ref", {"code": "main"}, {"code": reference}),
        lab.Arm("arm", "ref", {"code": "."}, {"code": arm}),
    ]
    return _only(lab.series(arms, [lab.timed(pair) for pair in TWICE], details))


def test_compare_two_codes_under_test_are_comparable_with_the_compilers_they_ask_for(lab: SimpleNamespace) -> None:
    facts = {"ref": {**lab.CPU, "code": "1", "jax": "0.9"}, "arm": {**lab.CPU, "code": "2"}}
    found = of_codes(lab, lab.Details(facts=facts))
    assert (found.verdict, found.tested) == (Verdict.WIN, ("code",))
    other_python = {**facts, "ref": {**facts["ref"], "python": "3.10"}}
    assert of_codes(lab, lab.Details(facts=other_python)).verdict is Verdict.NOT_COMPARABLE


def test_compare_two_codes_that_are_not_under_test_are_not_comparable(lab: SimpleNamespace) -> None:
    facts = {"ref": {**lab.CPU, "code": "1"}, "arm": {**lab.CPU, "code": "2"}}
    found = of_codes(lab, lab.Details(facts=facts), arm=OLD)
    assert found.verdict is Verdict.NOT_COMPARABLE
    assert "code is '2' against '1'" in (found.obstacle or "")


def test_compare_two_codes_that_make_one_program_are_a_no_op(lab: SimpleNamespace) -> None:
    facts = {"ref": {**lab.CPU, "code": "1"}, "arm": {**lab.CPU, "code": "2"}}
    found = of_codes(lab, lab.Details(facts=facts, program={"ref": "p", "arm": "p"}))
    assert found.verdict is Verdict.NO_OP
    assert "code changes nothing" in sentence(found, "a", "b")


def test_compare_one_program_by_two_compilers_is_a_comparison(lab: SimpleNamespace) -> None:
    facts = {"ref": {**lab.CPU, "code": "1", "jaxlib": "0.9"}, "arm": {**lab.CPU, "code": "2"}}
    assert of_codes(lab, lab.Details(facts=facts, program={"ref": "p", "arm": "p"})).verdict is Verdict.WIN
