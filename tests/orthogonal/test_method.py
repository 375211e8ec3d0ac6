"""What `newton_schulz` compiles by default, by shape and by platform, and what values print."""

import jax
import jax.numpy as jnp
import pytest

from precond import orthogonal


def whole(m, n):
    """Operations of five quintic steps on a matrix, as documented."""
    m, n = min(m, n), max(m, n)
    return 8 * m**2 * n + 28 * m**3 if n > 1.5 * m else 20 * m**2 * n + 10 * m**3


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (64, 100), (64, 90), (64, 64)], ids=str)
def test_by_default_it_compiles_the_form_with_fewer_operations(shape):
    x = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    compiled = jax.jit(orthogonal.newton_schulz().apply).lower(x).compile()
    assert 1 <= compiled.cost_analysis()["flops"] / (3 * whole(*shape)) < 1.03


@pytest.mark.platforms
@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
@pytest.mark.parametrize(
    ("dtype", "given"), [(None, jnp.float32), (jnp.float32, jnp.float32), (None, jnp.float64)], ids=str
)
def test_by_default_it_multiplies_in_bfloat16_on_accelerators(platform, dtype, given):
    with jax.enable_x64(given == jnp.float64):
        x = jax.ShapeDtypeStruct((1, 4, 9), given)
        program = jax.export.export(jax.jit(orthogonal.newton_schulz(dtype=dtype).apply), platforms=[platform])(x)
    products = [line for line in program.mlir_module().splitlines() if "stablehlo.dot_general" in line]
    narrow = platform != "cpu" and dtype is None and given == jnp.float32
    wide = "f64" if given == jnp.float64 else "f32"
    assert all(f"x{'bf16' if narrow else wide}>" in line for line in products)
    assert products


def test_blocks_take_the_documented_operations():
    def share(m, n, block):
        return -(-m // block) * -(-n // block) * whole(block, block) / whole(m, n)

    assert share(2048, 2048, 512) == 1 / 4
    assert share(1024, 4096, 512) == 1
    assert share(1024, 4096, 1024) == 2
    assert whole(1024, 4096) / (20 * 1024**2 * 4096 + 10 * 1024**3) == pytest.approx(2 / 3)


def test_a_scale_prints_what_the_user_types():
    scales = [orthogonal.width(), orthogonal.width(outputs=0), orthogonal.unit_rms_norm(outputs=0)]
    scales += [orthogonal.match_rms(0.3), orthogonal.match_rms()]
    for scale in scales:
        again = eval(f"orthogonal.{scale!r}")
        assert (repr(again), again.factor(3, 7)) == (repr(scale), scale.factor(3, 7))
    names = [orthogonal.newton_schulz(orthogonal.dion()), orthogonal.block_periodic(8, 2, orthogonal.polar())]
    assert [repr(method) for method in names] == ["newton_schulz()", "block_periodic(8, 2, polar())"]
