"""Programs that are small enough to count by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from precond.planning.count import Key, count_program
from precond.scopes import named

pytestmark = pytest.mark.platforms

N = 8
BYTES = 4 * 16 * N  # of the whole array


def count(f, *arguments, platform="cpu", axes=None):
    return count_program(jax.make_jaxpr(f)(*arguments), axes or {}, platform)


def kinds(f, *arguments, **options):
    return {key.kind: n for key, n in count(f, *arguments, **options).items()}


A = jnp.ones((3, 4, 5))


def test_a_product_is_two_operations_a_multiplication():
    assert kinds(lambda a: jnp.einsum("bij,bkj->bik", a, a), A) == {"products": 2 * 3 * 4 * 4 * 5}


def test_a_reduction_costs_what_goes_in_and_a_move_nothing():
    assert kinds(lambda a: jnp.sum(a, axis=(1, 2)), A) == {"elementwise": 60}
    assert kinds(lambda a: jnp.concatenate([a[:, :2], a.transpose(0, 2, 1)[:, :2, :3].repeat(1, 0)], 2), A) == {}


def test_a_singular_value_decomposition_counts_as_in_the_textbook_on_its_shorter_side():
    for a in (A, A.transpose(0, 2, 1)):
        found = kinds(lambda a: jnp.linalg.svd(a, full_matrices=False), a)
        assert found["decompositions"] == 3 * (14 * 5 * 4**2 + 8 * 4**3)


def test_a_loop_of_known_length_counts_every_turn_and_another_says_so():
    assert kinds(lambda a: lax.fori_loop(0, 7, lambda i, x: x * a, a), A)["elementwise"] == 7 * (60 + 1)
    found = kinds(lambda a: lax.while_loop(lambda x: x[0, 0, 0] < 9, lambda x: x * a, a), A)
    assert found == {"elementwise": 60 + 1, "loops": 1}


def test_of_branches_the_costliest_counts_unless_one_is_known():
    one, three = (lambda a: a + 1), (lambda a: a * a * a * a)
    assert kinds(lambda flag, a: lax.cond(flag, three, one, a), True, A)["elementwise"] >= 180
    # A scalar that no branch is chosen by may be anything.
    assert kinds(lambda a: jnp.clip(lax.convert_element_type(jnp.inf, a.dtype), 0, 1) * a, A)["elementwise"] >= 60
    for flag, operations in ((True, 180), (False, 60)):
        assert kinds(lambda a, flag=flag: lax.cond(flag, three, one, a), A) == {"elementwise": operations}


def test_of_platforms_one_counts():
    def f(a):
        return lax.platform_dependent(a, cpu=jnp.sin, cuda=lambda a: jnp.sin(a) * a, default=lambda a: a)

    found = [kinds(f, A, platform=p).get("elementwise", 0) for p in ("cpu", "cuda", "tpu")]
    assert found == [60, 120, 0]


def test_the_innermost_name_counts_through_every_call():
    def inner(a):
        with named("middle"), named("inner", "of 2"):
            return a * a

    def outer(a):
        with named("outer"):
            return jax.vmap(jax.jit(lambda a: inner(a + a)))(a)

    assert count(lambda a: outer(a) - a, A) == {
        Key("inner[of 2]", "elementwise"): 60,
        Key("outer", "elementwise"): 60,
        Key("", "elementwise"): 60,
    }


COLLECTIVES = {
    "all-gather": (lambda x: lax.all_gather(x, "data"), BYTES * (N - 1) // N),
    "all-to-all": (lambda x: lax.all_to_all(x.reshape(N, -1), "data", 0, 0), BYTES // N * (N - 1) // N),
    "all-reduce": (lambda x: lax.psum(x, "data"), 2 * (BYTES // N) * (N - 1) // N),
    "reduce-scatter": (lambda x: lax.psum_scatter(x, "data", tiled=True), BYTES // N * (N - 1) // N),
    "collective-permute": (lambda x: lax.ppermute(x, "data", [(i, (i + 1) % N) for i in range(N)]), BYTES // N),
}


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_a_collective_counts_what_a_device_receives_and_has_its_name_in_the_compiled_program(kind):
    send, received = COLLECTIVES[kind]
    mesh = jax.make_mesh((N,), ("data",), axis_types=(AxisType.Auto,))
    f = jax.shard_map(send, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    x = jnp.ones(16 * N)
    assert kinds(f, x, axes={"data": N}) == {kind: received}
    assert f" {kind}(" in jax.jit(f).lower(x).compile().as_text()


def test_sharded_arrays_count_as_the_share_of_one_device_and_gathering_them_as_received():
    mesh = jax.make_mesh((N,), ("data",), axis_types=(AxisType.Explicit,))
    x = jax.device_put(jnp.ones(16 * N), NamedSharding(mesh, P("data")))
    gather = lambda x: jax.sharding.reshard(2 * x, NamedSharding(mesh, P()))  # noqa: E731
    share = lambda x: jax.sharding.reshard(x, NamedSharding(mesh, P("data")))  # noqa: E731
    assert kinds(gather, x, axes={"data": N}) == {"elementwise": 16, "all-gather": BYTES * (N - 1) // N}
    assert kinds(share, jax.jit(gather)(x), axes={"data": N}) == {}
    assert f"f32[{16 * N}]" in next(
        line for line in jax.jit(gather).lower(x).compile().as_text().splitlines() if " all-gather(" in line
    )
