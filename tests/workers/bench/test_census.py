"""What a compiled program is found to contain, on a CPU and, compiled ahead of time, on a TPU v5p."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from workers.bench.census import ELSEWHERE, census


def counted(f, *arguments, scopes=()):
    return census(jax.jit(f).lower(*arguments).compile(), scopes)


def mapped(f, devices, *shapes):
    """f on a mesh, and arguments split over it by their first index."""
    mesh = Mesh(np.array(devices), ("devices",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P("devices"))
    each = jax.shard_map(f, mesh=mesh, in_specs=P("devices"), out_specs=P("devices"), check_vma=False)
    return each, *(jax.ShapeDtypeStruct(shape, dtype, sharding=split) for shape, dtype in shapes)


def dot(a, b, contracted=0):
    wide = jnp.int32 if a.dtype == jnp.int8 else jnp.float32
    return lax.dot_general(a, b, (((1,), (contracted,)), ((), ())), preferred_element_type=wide)


def to_the_next(a):
    size = lax.axis_size("devices")
    return lax.ppermute(a, "devices", [(i, (i + 1) % size) for i in range(size)])


COLLECTIVES = {
    "all-reduce": lambda a: lax.psum(a, "devices"),
    "all-gather": lambda a: lax.all_gather(a, "devices", tiled=True),
    "reduce-scatter": lambda a: lax.psum_scatter(a, "devices", tiled=True),
    "all-to-all": lambda a: lax.all_to_all(a, "devices", 0, 0, tiled=True),
    "collective-permute": to_the_next,
}


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_census_one_collective_is_counted_by_its_kind(kind):
    f, *arguments = mapped(lambda a: COLLECTIVES[kind](a * 2), jax.devices()[:2], ((8, 8), jnp.float32))
    assert counted(f, *arguments).collectives == {kind: 1}


def test_census_derivative_of_a_gather_is_a_scatter():
    def ring(a):
        def loss(a):
            whole = lax.all_gather(a, "devices", tiled=True)
            return jnp.sum(jnp.sin(lax.psum_scatter(whole * whole, "devices", tiled=True)))

        return jax.grad(loss)(a)

    f, *arguments = mapped(ring, jax.devices()[:2], ((8, 8), jnp.float32))
    assert counted(f, *arguments).collectives == {"all-gather": 2, "reduce-scatter": 2}


def test_census_argument_placed_otherwise_than_the_step_wants_it_shows_as_a_collective():
    mesh = Mesh(np.array(jax.devices()[:2]), ("devices",))
    split, whole = NamedSharding(mesh, P("devices")), NamedSharding(mesh, P())
    argument = jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=split)
    step = jax.jit(jax.shard_map(jnp.sin, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False), out_shardings=whole)
    assert census(step.lower(argument).compile()).collectives == {"all-gather": 1}


def test_census_int8_dots_are_counted_by_scope_forward_and_backward():
    @jax.custom_vjp
    def product(a, b):
        return dot(a.astype(jnp.int8), b).astype(jnp.float32)

    def forward(a, b):
        return product(a, b), b

    def backward(b, dout):
        return dot(dout.astype(jnp.int8), b, contracted=1).astype(jnp.float32), None

    product.defvjp(forward, backward)

    def step(x, w):
        def loss(x):
            with jax.named_scope("up"):
                gated = jnp.sin(product(x, w))
            with jax.named_scope("down"):
                out = product(gated, w)
            return jnp.sum(jnp.sin(out @ w.astype(jnp.float32)))

        return jax.grad(loss)(x), dot(w, w)

    found = counted(step, np.ones((16, 16), np.float32), np.ones((16, 16), np.int8), scopes=("up", "down", "shared"))
    assert found.int8_dots == {"up": 2, "down": 2, ELSEWHERE: 1}
    assert not found.widened_dots
    assert not found.collectives


def test_census_int8_turned_into_floats_before_a_product_is_not_int8():
    found = counted(lambda a, b: dot(a.astype(jnp.float32), b.astype(jnp.float32)), *[np.ones((16, 16), np.int8)] * 2)
    assert not found.int8_dots
    assert not found.widened_dots


def test_census_int8_of_few_elements_is_widened_on_a_cpu():
    def step(a, b):
        with jax.named_scope("up"):
            return dot(a, b)

    found = counted(step, np.ones((2, 2), np.int8), np.ones((2, 2), np.int8), scopes=("up",))
    assert not found.int8_dots
    assert found.widened_dots == {"up": 1}


@pytest.fixture(scope="module")
def v5p():
    """Four chips that are not here: programs compile for them and are not run."""
    pytest.importorskip("libtpu")
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    return topologies.get_topology_desc("v5p:2x2x1", "tpu").devices


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_census_one_collective_of_a_tpu_is_counted_by_its_kind(v5p, kind):
    f, *arguments = mapped(lambda a: COLLECTIVES[kind](a * 2), v5p, ((512, 256), jnp.bfloat16))
    assert counted(f, *arguments).collectives == {kind: 1}


def test_census_large_reduce_scatter_of_a_tpu_is_one_and_may_permute_edges(v5p):
    f, *arguments = mapped(lambda a: COLLECTIVES["reduce-scatter"](a * 2), v5p, ((4 * 32768, 2048), jnp.bfloat16))
    assert counted(f, *arguments).collectives == {"reduce-scatter": 1, "collective-permute": 1}


def test_census_ragged_exchange_and_ragged_int8_dot_of_a_tpu_are_counted(v5p):
    def step(rows, matrices, sizes):
        moved = lax.ragged_all_to_all(
            rows, jnp.zeros_like(rows), *[sizes] * 4, axis_name="devices"
        )  # fmt: skip
        with jax.named_scope("up"):
            return lax.ragged_dot(moved, matrices, sizes, preferred_element_type=jnp.int32)

    shapes = ((512, 256), jnp.int8), ((16, 256, 128), jnp.int8), ((16,), jnp.int32)
    f, *arguments = mapped(step, v5p, *shapes)
    found = counted(f, *arguments, scopes=("up",))
    assert found.collectives == {"ragged-all-to-all": 1}
    assert found.int8_dots == {"up": 1}
