"""A program that does otherwise than its job says is found out, whatever it is called."""

import jax
import pytest

from core.job import MoeBlockJob
from workers.bench.census import Census, census
from workers.bench.conformity import SCOPES, measures, nonconformities
from workers.bench.inputs import draw
from workers.bench.placement import place
from workers.moe import stages, step
from workers.moe.buffer import buffer_rows
from workers.moe.layout import Layout
from workers.moe.parallel.devices import gather_tokens


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 64, "hidden": 32, "mlp_dim": 16, "experts": 8, "topk": 2, "dtype": "float32"}
    return MoeBlockJob(**{**small, "backend": "ragged_dot", **fields})


def found_in(chosen: MoeBlockJob) -> Census:
    layout, inputs = Layout.of(chosen, jax.devices()), draw(chosen)
    program = step.program(layout, buffer_rows(chosen, inputs.routing.ids, len(layout.devices)))
    return census(jax.jit(program.step).lower(place(inputs.arguments, layout)).compile(), SCOPES)


def complaints(chosen: MoeBlockJob, found: Census, platform: str = "cpu") -> list[str]:
    return list(nonconformities(chosen, len(Layout.of(chosen, jax.devices()).devices), found, platform))


MODES = ["none", "ep_dense", "ep", "ep_ring", "ep_a2a"]


@pytest.mark.parametrize("bench_pass", ["forward", "forward_backward"])
@pytest.mark.parametrize("parallel_mode", MODES)
def test_program_of_a_mode_conforms_to_it_and_to_no_other(parallel_mode, bench_pass):
    chosen = job(parallel_mode=parallel_mode, bench_pass=bench_pass, shared_expert_dim=16)
    found = found_in(chosen)
    assert complaints(chosen, found) == []
    for other in MODES:
        # the two differ in their rows alone
        if other != parallel_mode and {other, parallel_mode} != {"ep", "ep_dense"}:
            assert complaints(chosen.model_copy(update={"parallel_mode": other}), found)


@pytest.mark.parametrize("parallel_mode", ["ref_dp", "staged_dp"])
def test_program_of_the_profile_harness_sends_nothing(parallel_mode):
    chosen = job(parallel_mode=parallel_mode, routing="softmax_topk")
    found = found_in(chosen)
    assert complaints(chosen, found) == []
    assert not found.collectives


def test_program_with_a_collective_too_many_is_refused(monkeypatch):
    right = stages.pack_rows

    def pack_everything(x, *rest):
        return right(gather_tokens(x)[: len(x)], *rest)

    monkeypatch.setattr(stages, "pack_rows", pack_everything)
    chosen = job(parallel_mode="ep")
    assert complaints(chosen, found_in(chosen)) == [
        "the program has all-gather, which parallel_mode = ep does not ask for"
    ]


def test_program_on_one_device_has_no_exchange_and_conforms():
    chosen = job(parallel_mode="ep_a2a", devices=1)
    found = found_in(chosen)
    assert complaints(chosen, found) == []
    assert "all-to-all" not in found.collectives


@pytest.mark.parametrize(
    ("quant_mode", "scopes"),
    [
        ("none", set()),
        ("int8_qdq", set()),
        ("int8", {"shared"}),
        ("int8_routed", {"up", "down"}),
        ("int8_all", {"up", "down", "shared"}),
        ("int8_routed_prequant", {"up", "down"}),
    ],
)
def test_program_multiplies_int8_where_its_mode_says_and_nowhere_else(quant_mode, scopes):
    chosen = job(quant_mode=quant_mode, shared_expert_dim=16, bench_pass="forward_backward")
    found = found_in(chosen)
    assert complaints(chosen, found) == []
    assert {measure.scope for measure in measures(found) if measure.name in ("int8_dots", "widened_dots")} - {
        ""
    } == scopes
    for other in {"none", "int8", "int8_routed", "int8_all"} - {quant_mode, quant_mode.removesuffix("_prequant")}:
        said = chosen.model_copy(update={"quant_mode": other})
        assert bool(complaints(said, found)) == (quant_mode != "int8_qdq" or other != "none")


def test_program_whose_int8_is_widened_conforms_on_a_cpu_alone():
    chosen = job(quant_mode="int8_routed")
    widened = Census({}, {}, {"up": 2, "down": 1})
    assert complaints(chosen, widened) == []
    assert len(complaints(chosen, widened, "tpu")) == 2
