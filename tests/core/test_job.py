"""Jobs: identity, canonical form, validity."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.job import KINDS, MoeBlockJob, SelftestJob, parse_job

ENV = st.dictionaries(st.from_regex(r"X_[A-Z]{1,3}", fullmatch=True), st.text("ab= -", max_size=3), max_size=3)

MOE = st.fixed_dictionaries(
    {
        "kind": st.just("moe_block"),
        "tokens": st.integers(1, 4096),
        "hidden": st.sampled_from([64, 128]),
        "mlp_dim": st.sampled_from([64, 256]),
        "experts": st.integers(1, 128),
        "topk": st.integers(1, 8),
        "backend": st.sampled_from(["ragged_dot", "blocked"]),
    },
    optional={
        "dtype": st.sampled_from(["bfloat16", "float32"]),
        "init": st.sampled_from(["fan_in", "unit"]),
        "seed": st.integers(0, 3),
        "impl": st.sampled_from(["baseline", "fused_w13"]),
        "w13_param": st.sampled_from(["stored", "concat"]),
        "bench_pass": st.sampled_from(["forward", "forward_backward"]),
        "env": ENV,
    },
)
SELFTEST = st.fixed_dictionaries(
    {"kind": st.just("selftest")},
    optional={
        "sleep_s": st.sampled_from([0, 0.0, 1, 1.0, 0.1, 2.5]),
        "end": st.sampled_from(["ok", "exit", "signal", "hang", "bad_output"]),
        "phase": st.sampled_from(["inputs", "check", "measure"]),
        "exit_code": st.integers(0, 3),
        "signal": st.integers(1, 9),
        "seed": st.integers(0, 3),
        "env": ENV,
    },
)
JOBS = MOE | SELFTEST

BLOCK = {
    "kind": "moe_block",
    "tokens": 1024,
    "hidden": 128,
    "mlp_dim": 256,
    "experts": 8,
    "topk": 2,
    "backend": "blocked",
    "impl": "fused_w13",
}


class GrownMoeBlockJob(MoeBlockJob):
    """The model with a field more."""

    scheduler: Literal["greedy", "patient"] = "greedy"


class GrownSelftestJob(SelftestJob):
    memory_bytes: int = 0


GROWN = {"moe_block": GrownMoeBlockJob, "selftest": GrownSelftestJob}


@given(JOBS, st.randoms(use_true_random=False))
def test_id_of_fields_in_another_order_is_the_same(fields: dict[str, Any], random: Any) -> None:
    shuffled = list(fields.items())
    random.shuffle(shuffled)
    env = dict(reversed(fields["env"].items())) if "env" in fields else {}
    assert parse_job(dict(shuffled) | ({"env": env} if env else {})).id == parse_job(fields).id


@given(JOBS)
def test_id_of_defaults_spelt_out_is_the_same(fields: dict[str, Any]) -> None:
    job = parse_job(fields)
    assert parse_job(job.model_dump()).id == job.id


@given(JOBS)
def test_id_after_a_field_is_added_to_the_model_is_the_same(fields: dict[str, Any]) -> None:
    assert GROWN[fields["kind"]].model_validate(fields).id == parse_job(fields).id


@pytest.mark.parametrize("grown", [GrownMoeBlockJob(**BLOCK, scheduler="patient"), GrownSelftestJob(memory_bytes=1)])
def test_id_of_an_added_field_that_is_chosen_is_another(grown: MoeBlockJob | SelftestJob) -> None:
    assert grown.id != KINDS[grown.kind].model_validate(grown.model_dump(exclude={"scheduler", "memory_bytes"})).id


@given(JOBS, JOBS)
def test_canonical_form_is_equal_exactly_when_ids_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = parse_job(one), parse_job(other)
    assert (a.canonicalised() == b.canonicalised()) == (a.id == b.id)


@given(JOBS)
def test_canonicalised_job_keeps_the_id_and_has_nothing_left_to_reset(fields: dict[str, Any]) -> None:
    canonical = parse_job(fields).canonicalised()
    assert canonical.id == parse_job(fields).id
    assert canonical.canonicalised() == canonical
    assert canonical.canonical().keys().isdisjoint(canonical.irrelevant())


@pytest.mark.parametrize(
    ("fields", "change", "matters"),
    [
        ({**BLOCK, "impl": "baseline"}, {"w13_param": "concat"}, False),
        ({**BLOCK, "impl": "fused_w13"}, {"w13_param": "concat"}, True),
        ({"kind": "selftest", "end": "ok"}, {"exit_code": 7}, False),
        ({"kind": "selftest", "end": "ok"}, {"phase": "check"}, False),
        ({"kind": "selftest", "end": "exit"}, {"exit_code": 7}, True),
        ({"kind": "selftest", "end": "exit"}, {"signal": 15}, False),
        ({"kind": "selftest", "end": "signal"}, {"signal": 15}, True),
        ({"kind": "selftest", "end": "signal"}, {"exit_code": 7}, False),
        ({"kind": "selftest", "end": "hang"}, {"phase": "check"}, True),
        ({"kind": "selftest", "end": "bad_output"}, {"phase": "check"}, False),
    ],
)
def test_id_changes_only_with_what_matters(fields: dict[str, Any], change: dict[str, Any], matters: bool) -> None:
    assert (parse_job(fields).id != parse_job(fields | change).id) is matters
    assert (next(iter(change)) not in parse_job(fields).irrelevant()) is matters


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 512},
        {"hidden": 64},
        {"mlp_dim": 64},
        {"experts": 16},
        {"topk": 1},
        {"dtype": "float32"},
        {"init": "unit"},
        {"seed": 1},
        {"backend": "ragged_dot"},
        {"impl": "baseline"},
        {"bench_pass": "forward_backward"},
        {"env": {"A": "1"}},
        {"env": {"A": ""}},
    ],
)
def test_id_of_another_choice_is_another(change: dict[str, Any]) -> None:
    assert parse_job(BLOCK | change).id != parse_job(BLOCK).id


def test_id_of_a_number_is_that_of_its_fields_type() -> None:
    ids = {parse_job({"kind": "selftest", "sleep_s": value}).id for value in (1, 1.0, 1.00)}
    assert len(ids) == 1
    assert parse_job({"kind": "selftest", "sleep_s": -0.0}).id == parse_job({"kind": "selftest"}).id


def test_id_of_a_changed_copy_is_its_own() -> None:
    job = parse_job(BLOCK)
    assert job.id != job.model_copy(update={"topk": 4}).id == parse_job(BLOCK | {"topk": 4}).id


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        (
            {**BLOCK, "env": {"B": "2", "A": "1"}},
            "688bb4096fbb02c36e3c67a5829a53bc4d88698e5f1afe4790e57934877aa301",
        ),
        (
            {"kind": "selftest", "sleep_s": 0.25, "end": "signal", "signal": 11, "phase": "warmup", "seed": 3},
            "ee84aac2ac1666644a2f36f887fb2e900262d9ada84115526c0d2ba73bcd7b69",
        ),
        (
            {**BLOCK, "env": {"B": "2", "A": "1"}, "code": "."},
            "688bb4096fbb02c36e3c67a5829a53bc4d88698e5f1afe4790e57934877aa301",
        ),
        (
            {"kind": "selftest", "code": "0123456789abcdef0123456789abcdef01234567"},
            "b76ca97d29b4732a40eee2003dc0ce0e82a5e1a024a60a7931976512986d6fbd",
        ),
    ],
)
def test_id_is_what_it_was_when_ledgers_were_first_written(fields: dict[str, Any], identity: str) -> None:
    assert parse_job(fields).id == identity


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topk": 9}, "topk = 9 is more than experts = 8"),
        ({"tokens": 2**30, "topk": 2}, "2147483648 assignments cannot be indexed with int32"),
        ({"topk": 8}, None),
        ({"tokens": 2**30 - 1, "topk": 2}, None),
    ],
)
def test_refusal_of_a_combination_without_meaning_says_why(change: dict[str, Any], words: str | None) -> None:
    refusal = parse_job(BLOCK | change).refusal()
    assert words == refusal if words is None or refusal is None else words in refusal


@pytest.mark.parametrize(
    "change",
    [
        {"topk": "2"},
        {"topk": 2.0},
        {"topk": True},
        {"topk": 0},
        {"tokens": 2**31},
        {"backend": "gmm2"},
        {"unknown": 1},
        {"env": {"PATH": "/bin"}},
        {"env": {"JAX_PLATFORMS": "cpu"}},
        {"env": {"A B": "1"}},
        {"env": {"A": "\0"}},
        {"env": {"A": 1}},
        {"kind": "other"},
    ],
)
def test_parse_job_of_a_wrong_value_raises(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse_job(BLOCK | change)


def test_job_cannot_be_edited() -> None:
    with pytest.raises(ValidationError):
        parse_job(BLOCK).seed = 1


@pytest.mark.parametrize("code", ["main", "0" * 39, "0" * 39 + "G", "0" * 41, "A" * 40])
def test_code_that_is_no_full_commit_id_is_refused(code: str) -> None:
    with pytest.raises(ValidationError, match="is no full commit id"):
        parse_job({"kind": "selftest", "code": code})
