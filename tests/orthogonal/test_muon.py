"""Muon against its dense definition in float64, and against Optax's."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import precond
from precond import orthogonal
from precond.blocks import BlockInfo
from precond.blocks.layout import Origin
from precond.collectives import SINGLE
from precond.recipes import meta_svd, nvidia_muon, nvidia_normuon
from precond.transforms import homes, nesterov, normalize_neurons, orthogonalize
from tests import problem
from tests.problem import AS_USERS, distance, gradients

# To rounding, over many steps.
trajectory = functools.partial(problem.trajectory, compiler_options=AS_USERS)

MATRICES = {"wide": (6, 14), "tall": (14, 6), "square": (7, 7), "stack": (3, 5, 4), "row": (1, 5)}
WHOLE = {"views": lambda path, leaf: precond.View((-2, -1))}
EXACT = orthogonal.newton_schulz(dtype=jnp.float32)


def orthogonalized(x, polynomials):
    """The definition: singular values of the matrix of norm 1 through the polynomials; None is 1 for all."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    s = s / np.linalg.norm(s)
    for a, b, c in polynomials or ():
        s = a * s + b * s**3 + c * s**5
    return u @ np.diag(s if polynomials else np.ones_like(s)) @ vt


def definition(start, grads, *, rate, b1, polynomials, factor, decay=0.0, second=None, over=None):
    """The trajectory of one matrix."""
    w, m, v, path = np.array(start), np.zeros_like(start), 0.0, []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        u = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        o = orthogonalized(u, polynomials) * factor(*start.shape)
        if second is not None:
            v = second * v + (1 - second) * (np.mean(o**2, over, keepdims=True) if over is not None else o**2)
            even = o / (np.sqrt(v) + 1e-8)
            o = even * np.linalg.norm(o) / np.linalg.norm(even)
        w = w - rate * (o + decay * w)
        path.append(w)
    return np.stack(path)


def each_matrix(function, start, grads):
    """A function of matrices on all those of a parameter."""
    if start.ndim == 2:
        return function(start, grads)
    return np.stack([function(s, [g[i] for g in grads]) for i, s in enumerate(start)], axis=1)


def check(tx, **given):
    start, grads = gradients(MATRICES, steps=1, seed=5)[0], gradients(MATRICES, steps=12)
    path = trajectory(tx, start, grads)
    for k, w in start.items():
        expected = each_matrix(lambda s, g: definition(s, g, **given), w, [g[k] for g in grads])
        assert distance(path[k], expected, w) < 1e-12, k


def rms(m, n):
    return 0.2 * max(m, n) ** 0.5


def jordans(m, n):
    return max(1.0, n / m) ** 0.5


SETS = {
    "jordan": orthogonal.jordan(),
    "dion": orthogonal.dion(),
    "polar_express": orthogonal.polar_express(),
    "deepseek": orthogonal.deepseek(),
    "cubic": orthogonal.cubic(),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "polynomials", [pytest.param(p, id=n, marks=[pytest.mark.slow] * (n != "jordan")) for n, p in SETS.items()]
)
def test_every_matrix_follows_the_definition(polynomials):
    method = orthogonal.newton_schulz(polynomials)
    given = {"rate": 0.01, "b1": 0.9, "polynomials": polynomials}
    check(precond.muon(0.01, b1=0.9, method=method, weight_decay=0.1, **WHOLE), factor=rms, decay=0.1, **given)
    scale = orthogonal.width()
    check(precond.muon(0.01, b1=0.9, method=method, scale=scale, **WHOLE), factor=jordans, **given)


@pytest.mark.usefixtures("x64")
def test_with_polar_factors_it_follows_the_definition():
    scale = orthogonal.width(outputs=0)
    tx = precond.muon(0.01, b1=0.9, method=orthogonal.polar(), scale=scale, **WHOLE)
    check(tx, rate=0.01, b1=0.9, polynomials=None, factor=lambda m, n: max(1.0, m / n) ** 0.5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "over", [0, *(pytest.param(x, marks=pytest.mark.slow) for x in (1, ()))], ids=["outputs", "inputs", "entries"]
)
def test_normalized_neurons_follow_the_definition(over):
    polynomials = orthogonal.jordan()
    tx = precond.muon(0.01, b1=0.9, after=normalize_neurons(0.8, over=over), **WHOLE)
    axes = None if over == () else over
    check(tx, rate=0.01, b1=0.9, polynomials=polynomials, factor=rms, second=0.8, over=axes)


def of_authors(start, grads, *, signs=False, over=None, factor=None, second=None):
    """The trajectory of one matrix with Nesterov's momentum as in the original code, for a rate of 0.01."""
    w, m, v, path = np.array(start), np.zeros_like(start), 0.0, []
    for g in grads:
        m = 0.95 * m + g
        u = g + 0.95 * m
        o = orthogonalized(np.sign(u) if signs else u, orthogonal.jordan()) * factor(*start.shape)
        if second is not None:
            v = second * v + (1 - second) * (o**2 if over is None else np.mean(o**2, over, keepdims=True))
            even = o / (np.sqrt(v) + 1e-8)
            o = even * np.linalg.norm(o) / np.linalg.norm(even)
        w = w - 0.01 * o
        path.append(w)
    return np.stack(path)


ORIGINAL = optax.trace(0.95, nesterov=True)
SIGNS = optax.chain(ORIGINAL, optax.stateless(lambda updates, params: jax.tree.map(jnp.sign, updates)))
AUTHORS = {
    "original": ({"momentum": ORIGINAL, "scale": orthogonal.width()}, {"factor": jordans}),
    "normuon": (
        {"momentum": ORIGINAL, "after": normalize_neurons()},
        {"factor": rms, "over": 0, "second": 0.95},
    ),
    "adamuon": (
        {"momentum": SIGNS, "after": normalize_neurons(0.95, over=())},
        {"factor": rms, "signs": True, "second": 0.95},
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "adamuon")) for n in AUTHORS])
def test_the_variants_of_the_page_follow_their_definitions(name):
    given, definition = AUTHORS[name]
    shapes = {"wide": (6, 14), "tall": (14, 6)}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 12)
    path = trajectory(precond.muon(0.01, **given), start, grads)
    for k, w in start.items():
        assert distance(path[k], of_authors(w, [g[k] for g in grads], **definition), w) < 1e-12, k


def optax_muon(rate, *, dims=None, **given):
    """Optax's, which leaves its own parameters to Adam by dimension numbers of None."""
    shared = {"adam_b1": 0.9, "adam_b2": 0.95, "eps": 1e-8, "adam_learning_rate": 0.003}
    return optax.contrib.muon(rate, muon_weight_dimension_numbers=dims, **shared, **given)


def ours(rate, *, polynomials=None, rescale=None, **given):
    adam = optax.scale_by_adam(0.9, 0.95, 1e-8, nesterov=True)
    method = orthogonal.newton_schulz(polynomials, dtype=jnp.float32, rescale=rescale)
    return precond.muon(rate, method=method, otherwise=adam, adam_learning_rate=0.003, **given)


SHAPES = {"wide": (12, 40), "tall": (40, 12), "square": (16, 16), "bias": (12,), "scale": ()}
DION = {"polynomials": orthogonal.dion()}
PRESETS = {
    "standard": ({}, {}),
    "dion": ({"ns_coeffs": "dion"}, DION),
    "seven steps": ({"ns_steps": 7}, {"polynomials": orthogonal.jordan(7)}),
    "more than a set": ({"ns_coeffs": "dion", "ns_steps": 7}, DION),
    "schatten": ({"preconditioning": "schatten"}, {"rescale": orthogonal.schatten()}),
    "spectral": ({"preconditioning": "spectral"}, {"rescale": orthogonal.spectral()}),
    "aol": ({"preconditioning": "aol", "ns_coeffs": "dion"}, DION | {"rescale": orthogonal.almost_orthogonal()}),
    "own": ({"ns_coeffs": ((3.0, -3.2, 1.2),) * 5}, {"polynomials": ((3.0, -3.2, 1.2),) * 5}),
    "without nesterov": ({"nesterov": False}, {"momentum": optax.ema(0.95)}),
    "decay": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "mask": lambda p: jax.tree.map(lambda x: x.ndim == 2, p)}),
    "beta": ({"beta": 0.8}, {"b1": 0.8}),
}
# They differ from another one in a number.
ALIKE = (
    "dion", "seven steps", "more than a set", "schatten", "spectral", "aol", "own", "beta", "decay", "without nesterov"
)  # fmt: skip
SCALES = {
    "width": ({}, {"scale": orthogonal.width()}),
    "consistent_rms": ({"consistent_rms": 0.2}, {}),
}


def compare(theirs, mine, shapes, steps=50, tolerance=2e-5):
    start = {k: np.float32(x) for k, x in gradients(shapes, 1, seed=5)[0].items()}
    rng = np.random.default_rng(1)
    grads = [{k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()} for _ in range(steps)]
    expected, found = trajectory(theirs, start, grads), trajectory(mine, start, grads)
    for k, w in start.items():
        assert distance(found[k], expected[k], w) < tolerance, k


@pytest.mark.parametrize(
    ("scale", "preset"),
    [pytest.param("width", name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in PRESETS]
    + [("consistent_rms", "standard"), pytest.param("consistent_rms", "dion", marks=pytest.mark.slow)],
)
def test_it_is_that_of_optax(preset, scale):
    (theirs, mine), (their_scale, my_scale) = PRESETS[preset], SCALES[scale]
    shapes = {k: s for k, s in SHAPES.items() if len(s) == 2 or preset != "without nesterov"}  # it is Adam's, too
    compare(optax_muon(0.02, **theirs, **their_scale), ours(0.02, **mine, **my_scale), shapes)


@pytest.mark.usefixtures("x64")
def test_it_is_that_of_optax_to_the_rounding_of_float64():
    shapes = {k: s for k, s in SHAPES.items() if len(s) == 2}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 10)
    theirs = trajectory(optax.contrib.muon(0.02, eps=0.0), start, grads)
    mine = trajectory(precond.muon(0.02, scale=orthogonal.width()), start, grads)
    for k, w in start.items():
        assert distance(mine[k], theirs[k], w) < 1e-6, k  # Optax keeps its coefficients in float32


DIMENSIONS = {
    "swapped": ((8, 5), (1, 0), precond.View((1, 0))),
    "heads as outputs": ((6, 2, 5), (0, (1, 2)), precond.View((0, (1, 2)))),
    "heads as inputs": ((2, 5, 6), ((0, 1), 2), precond.View(((0, 1), 2))),
    "each head": ((6, 2, 5), (0, 2), precond.View((0, 2))),
    "scanned layers": ((3, 6, 5), (1, 2), precond.View((1, 2))),
    "convolution": ((3, 2, 4, 6), ((0, 1, 2), 3), precond.View(((0, 1, 2), 3))),
    "negative": ((3, 6, 5), (-2, -1), precond.View((-2, -1))),
    "not at all": ((8, 5), None, None),
}


@pytest.mark.parametrize(
    "scale", [pytest.param(s, id=n, marks=[pytest.mark.slow] * (n != "width")) for n, s in SCALES.items()]
)
def test_dimension_numbers_are_views(scale):
    shapes = {name: shape for name, (shape, _, _) in DIMENSIONS.items()}
    numbers = optax.contrib.MuonDimensionNumbers
    dims = {name: d and numbers(*d) for name, (_, d, _) in DIMENSIONS.items()}
    theirs = optax_muon(0.02, dims=dims, **scale[0])
    compare(theirs, ours(0.02, views=lambda path, leaf: DIMENSIONS[path][2], **scale[1]), shapes)


def test_the_parts_spelled_out_are_the_alias():
    shapes = {"kernel": (6, 9), "bias": (9,)}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 6)
    inner = optax.chain(
        precond.per_block(nesterov(0.95)),
        orthogonalize(EXACT, scale=orthogonal.match_rms(0.2)),
        precond.per_block(normalize_neurons()),
    )
    spelled = optax.chain(
        precond.blocked(inner, block_size=4, otherwise=optax.scale_by_adam(0.9, 0.95, 1e-15)),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(optax.linear_schedule(0.1, 0.0, 6)),
    )
    rate = optax.linear_schedule(0.1, 0.0, 6)
    alias = precond.muon(rate, method=EXACT, after=normalize_neurons(), block_size=4, weight_decay=0.1)
    expected, found = trajectory(spelled, start, grads), trajectory(alias, start, grads)
    for k, w in start.items():
        assert distance(found[k], expected[k], w) < 1e-6


def test_parameters_without_a_view_have_a_learning_rate_of_their_own():
    shapes = {"kernel": (6, 9), "bias": (9,)}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 6)

    def run(rate, other):
        tx = precond.muon(rate, adam_learning_rate=other, method=EXACT, weight_decay=0.1)
        return trajectory(tx, start, grads)

    slow, fast = run(0.01, None), run(0.1, None)
    np.testing.assert_array_equal(run(0.01, 0.1)["kernel"], slow["kernel"])
    np.testing.assert_array_equal(run(0.01, 0.1)["bias"], fast["bias"])
    np.testing.assert_array_equal(run(0.01, lambda t: 0.1)["bias"], fast["bias"])


def test_a_step_that_is_skipped_is_none_for_either_schedule():
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
    tx = precond.muon(lambda t: 1.0 + t, adam_learning_rate=lambda t: 10.0 + t, method=orthogonal.polar())
    good, bad = params, jax.tree.map(lambda x: x * jnp.nan, params)
    state = tx.init(params)
    for g in (bad, good):
        before = state
        updates, state = tx.update(g, state, params)
        if g is bad:
            assert not any(x.any() for x in jax.tree.leaves(updates))
    first, _ = tx.update(good, tx.init(params), params)
    chex.assert_trees_all_equal(updates, first)
    one, _ = tx.update({"kernel": bad["kernel"], "bias": good["bias"]}, before, params)
    assert not one["kernel"].any()
    assert one["bias"].all()


def test_the_state_is_one_number_a_parameter_of_a_matrix():
    params = {f"layer_{i}": {"kernel": jnp.zeros((32, 64))} for i in range(8)}
    state = precond.muon(1e-3, axis="data", method=EXACT).init(params)
    numbers = sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.float32)
    assert numbers == 8 * 32 * 64 + 8  # and one a matrix, its error


def test_metrics_tell_how_far_singular_values_are_from_one():
    params = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((40, 60)), jnp.float32), "b": jnp.ones(3)}

    def error(tx):
        return precond.metrics(tx.update(params, tx.init(params), params)[1])["orthogonal/error"].item()

    assert 0.2 < error(precond.muon(1e-3, method=EXACT)) < 0.5
    assert error(precond.muon(1e-3, method=orthogonal.newton_schulz(orthogonal.polar_express(10)))) < 1e-5
    diverging = orthogonal.newton_schulz(((300.0, 0.0),) * 60)
    assert error(precond.muon(1e-3, method=diverging)) > 1e30


def test_a_matrix_for_which_newton_schulz_diverges_stays_where_it_is_and_no_other_size_is_refused():
    g = {"4x6": jnp.asarray(1e10 * np.random.default_rng(0).standard_normal((2, 4, 6)))}
    for method, moves in (
        (orthogonal.newton_schulz(((20.0, 0.0),) * 2), False),
        (meta_svd(scale_by_nuclear_norm=True), True),
    ):
        found, _ = orthogonalize(method).update(g, orthogonalize(method).init(g))
        assert bool(jnp.any(found["4x6"] != 0)) == moves


@pytest.mark.parametrize("limited", [False, True])
def test_a_result_that_is_refused_moves_nothing(limited):
    size = 1e3 if limited else jnp.inf
    huge = orthogonal.Orthogonalizer("huge", lambda x: jnp.where(jnp.abs(x[:, :1, :1]) > 1, size * x, x))
    huge = huge._replace(largest_error=100.0) if limited else huge
    g = {"4x6": jnp.linspace(0.1, 0.9, 48).reshape(2, 4, 6).at[1, 0, 0].set(2)}
    tx = orthogonalize(orthogonal.block_periodic(3, 2, huge))
    whole, state = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(whole["4x6"], g["4x6"].at[1].set(0))
    cut, _ = tx.update(g, state)
    np.testing.assert_array_equal(cut["4x6"], g["4x6"].at[1, :2, :3].set(0))


def test_leaves_whose_paths_read_alike_are_not_mixed_up():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3, 3)))
    tx, alike, others = orthogonalize(EXACT), {"a": {"b": x}, "a/b": x[:2]}, {"c": x, "d": x[:2]}
    (found, _), (alone, _) = (tx.update(tree, tx.init(tree)) for tree in (alike, others))
    np.testing.assert_allclose(found["a"]["b"], alone["c"], rtol=1e-6)
    np.testing.assert_allclose(found["a/b"], alone["d"], rtol=1e-6)


def test_a_block_that_is_skipped_keeps_its_error():
    tx, stacks = orthogonalize(EXACT), {"4x6": jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 6)))}
    finite = {"4x6": jnp.asarray([True, False])}
    state = tx.init(stacks)._replace(error={"4x6": jnp.asarray([7.0, 7.0])})
    _, state = tx.update(stacks, state, blocks=precond.BlockInfo(finite=finite, batch_axes=1))
    assert state.error["4x6"][0] < 1
    assert state.error["4x6"][1] == 7


@pytest.mark.parametrize("divided", [(), "data"], ids=["whole gradients", "divided gradients"])
def test_on_eight_devices_it_is_still_that_of_optax_and_each_keeps_an_eighth(divided):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shapes = {f"layer_{i}": (16, 24) for i in range(16)}
    grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradients(shapes, 3))
    start = jax.tree.map(jnp.zeros_like, grads[0])  # so that no sum with a parameter is rounded
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data" if divided else None))
    axis = precond.sharded("data", gradients=divided)
    tx = precond.muon(0.02, method=EXACT, scale=orthogonal.width(), axis=axis, mesh=mesh)
    expected = trajectory(optax.contrib.muon(0.02), start, grads)
    params, grads = jax.device_put((start, grads), where)
    state, step = jax.jit(tx.init)(params), jax.jit(tx.update)
    for t, g in enumerate(grads):
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
        for k, w in start.items():
            assert distance(np.asarray(params[k]), expected[k][t], w) < 2e-5
    held = [x for x in jax.tree.leaves(state) if x.ndim == 3]
    assert [x.addressable_shards[0].data.shape for x in held] == [(2, 16, 24)]


def test_every_matrix_of_a_unique_shape_is_computed_once_and_on_a_device_of_its_own(monkeypatch):
    def marking(x):
        jax.debug.callback(lambda i, shape=x.shape: marks.append((shape, int(i))), jax.lax.axis_index("data"))
        return x

    monkeypatch.setattr(homes, "LEAST", 1)
    shapes = {"a": (4, 4), "b": (5, 5), "c": (6, 6), **{f"layer_{i}": (9, 9) for i in range(8)}, "d": (9, 9)}
    grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradients(shapes, 1)[0])
    marks, mesh = [], jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    method = orthogonal.Orthogonalizer("marking", marking)
    tx = precond.scale_by_muon(
        momentum=optax.identity(), method=method, scale=orthogonal.width(), axis="data", mesh=mesh
    )
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    jax.effects_barrier()
    for k, g in grads.items():
        np.testing.assert_array_equal(updates[k], g)
    # Nine matrices stand two by two on five devices, and the others take what is left.
    assert sorted(marks) == [
        *(((1, 4, 4), 7), ((1, 5, 5), 6), ((1, 6, 6), 5)),
        *(((2, 9, 9), i) for i in range(5)),
    ]


def test_on_one_device_nothing_is_computed_of_what_fills_up_a_stack():
    seen = []
    method = orthogonal.Orthogonalizer("seeing", lambda x: seen.append(x.shape) or x)
    grads, mesh = {"kernel": jnp.ones((4, 6))}, jax.make_mesh((1,), ("data",))
    tx = precond.scale_by_muon(method=method, axis="data", mesh=mesh)
    jax.eval_shape(tx.update, grads, tx.init(grads))
    assert set(seen) == {(1, 4, 6)}


def test_one_gradient_of_a_thousand_times_makes_no_update_longer():
    rng, params = np.random.default_rng(0), {"kernel": jnp.zeros((32, 16))}
    tx = precond.muon(1.0, method=EXACT)
    state, update, sizes = tx.init(params), jax.jit(tx.update), []
    for step in range(60):
        g = rng.standard_normal((32, 16)) * (1000 if step == 40 else 1)
        updates, state = update({"kernel": jnp.asarray(g, jnp.float32)}, state)
        sizes.append(float(jnp.sqrt(jnp.mean(updates["kernel"] ** 2))))
    assert max(sizes[40:]) < 1.2 * max(sizes[:40])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: precond.muon(1e-3, b1=1.0), ValueError, "b1=1.0"),
        (lambda: precond.muon(1e-3, adam_b2=1.5), ValueError, "adam_b2=1.5"),
        (lambda: precond.muon(1e-3, adam_learning_rate=-1.0), ValueError, "adam_learning_rate=-1.0"),
        (lambda: precond.muon(1e-3, method="jordan"), TypeError, "method='jordan'"),
        (lambda: precond.muon(1e-3, method=orthogonal.polar), TypeError, "Call this function"),
        (lambda: precond.muon(1e-3, scale=0.2), TypeError, "scale=0.2"),
        (lambda: precond.muon(1e-3, momentum=0.9), TypeError, "momentum=0.9"),
        (lambda: precond.muon(1e-3, after=normalize_neurons), TypeError, "after="),
        (lambda: orthogonal.block_periodic(0), ValueError, "block_size=0"),
        (lambda: orthogonal.block_periodic(8, 0), ValueError, "period=0"),
        (lambda: orthogonal.block_periodic(8, 2, precond.eigh()), TypeError, "method="),
        (lambda: orthogonal.block_periodic(8, 2, orthogonal.block_periodic(4)), ValueError, "blocks of blocks"),
        (lambda: nvidia_muon(0.1, method=orthogonal.block_periodic(4)), ValueError, r"Use precond\.muon"),
        (lambda: nvidia_muon(0.1, method=orthogonal.polar), TypeError, "Call this function"),
        (lambda: orthogonal.newton_schulz(dtype=jnp.int8), TypeError, "floating point"),
        (lambda: orthogonal.newton_schulz(rescale="aol"), TypeError, "rescale='aol'"),
        (lambda: orthogonal.newton_schulz(rescale=orthogonal.schatten), TypeError, "Call this function"),
        (lambda: orthogonal.width(outputs=2), ValueError, "outputs=2"),
        (lambda: orthogonal.match_rms(-1.0), ValueError, "rms=-1.0"),
        (lambda: normalize_neurons(over=-1), ValueError, "over=-1"),
        (lambda: normalize_neurons(1.0), ValueError, "decay=1.0"),
        (lambda: nesterov(1.0), ValueError, "decay=1.0"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_is_no_stack_of_matrices_is_refused():
    params = {"t": jnp.ones((3, 4, 5))}
    tx = precond.muon(1e-3, views=precond.views.tensors())
    with pytest.raises(ValueError, match=r"3x4x5.*precond\.View"):
        tx.init(params)
    with pytest.raises(ValueError, match=r"\(1, 3, 4\)\. Among stacks, put it into precond\.per_block"):
        precond.blocked(nvidia_normuon()).init({"w": jnp.ones((3, 4))})
    row = precond.blocked(nvidia_normuon(), views=lambda path, leaf: precond.View((0,)))
    with pytest.raises(ValueError, match=r"nvidia_normuon\(\) takes single blocks"):
        row.update({"w": jnp.ones(3)}, row.init({"w": jnp.ones(3)}))
    alone = precond.blocked(precond.per_block(orthogonalize()))
    with pytest.raises(ValueError, match="not into"):
        alone.update({"w": jnp.ones((3, 4))}, alone.init({"w": jnp.ones((3, 4))}))
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        orthogonalize().update({"w": jnp.ones((3, 4))}, orthogonalize().init({"w": jnp.ones((3, 4))}))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "polynomials", [None, pytest.param(orthogonal.jordan(), marks=pytest.mark.slow)], ids=["polar", "jordan"]
)
def test_between_whole_matrices_blocks_follow_the_definition(polynomials):
    shapes = {"wide": (6, 14), "ragged": (7, 5), "small": (3, 4), "row": (1, 9)}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 7)
    method = orthogonal.polar() if polynomials is None else orthogonal.newton_schulz(polynomials)
    periodic = orthogonal.block_periodic(4, 3, method)
    path = trajectory(precond.muon(0.01, momentum=optax.ema(0.9), method=periodic, **WHOLE), start, grads)
    for k, w in start.items():
        m, expected = np.zeros_like(w), []
        pieces = [-(-d // 4) for d in w.shape]
        sides = [-(-d // p) for d, p in zip(w.shape, pieces, strict=True)]
        for t, g in enumerate(grads):
            m, u = 0.9 * m + 0.1 * g[k], np.zeros_like(w)
            rows, columns = sides if t % 3 else w.shape
            for i in range(0, w.shape[0], rows):
                for j in range(0, w.shape[1], columns):
                    block = np.s_[i : i + rows, j : j + columns]
                    u[block] = orthogonalized(m[block], polynomials) * rms(rows, columns)
            w = w - 0.01 * u
            expected.append(w)
        assert distance(path[k], np.stack(expected), start[k]) < 1e-12, k


@pytest.mark.optimized
def test_mapped_members_take_blocks_alone_where_all_of_them_do():
    def marking(x):
        jax.debug.callback(lambda x, size=x.shape[1]: marks.append(size), x[0, 0, 0])
        return x

    marks, g = [], {"6x6": jnp.ones((2, 1, 6, 6))}  # two members, each with a stack of one matrix
    tx = orthogonalize(orthogonal.block_periodic(3, 2, orthogonal.Orthogonalizer("marking", marking)))
    update, state = jax.jit(jax.vmap(tx.update)), jax.vmap(tx.init)(g)
    seen = []
    for _ in range(3):
        _, state = jax.block_until_ready(update(g, state))
        jax.effects_barrier()
        seen.append(set(marks))
        marks.clear()
    assert seen == [{6}, {3}, {6}]


def test_the_error_is_that_of_whole_matrices():
    g = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((8, 6)), jnp.float32)}
    tx = precond.scale_by_muon(method=orthogonal.block_periodic(3, 2, EXACT))
    _, first = tx.update(g, tx.init(g))
    _, second = tx.update(g, first)
    assert precond.metrics(first)["orthogonal/error"] == precond.metrics(second)["orthogonal/error"] > 0


@pytest.mark.usefixtures("x64")
def test_tall_and_wide_matrices_share_a_stack_and_follow_the_same_definition():
    shapes = {"up": (6, 14), "down": (14, 6), "layers": (2, 14, 6)}
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 6)

    def stacks(**given):
        state = precond.muon(0.01, **WHOLE, **given).init(start)
        return {name: x.shape[0] for name, x in optax.tree.get(state, "error").items()}

    assert stacks() == stacks(block_size=14) == {"6x14": 4}
    assert stacks(scale=orthogonal.width()) == stacks(after=normalize_neurons()) == {"6x14": 1, "14x6": 3}
    symmetric, width = orthogonal.match_rms(0.2), orthogonal.width()._replace(symmetric=True)
    path = trajectory(precond.muon(0.01, scale=symmetric, **WHOLE), start, grads)
    apart = trajectory(precond.muon(0.01, scale=symmetric._replace(symmetric=False), **WHOLE), start, grads)
    wrong = trajectory(precond.muon(0.01, scale=width, **WHOLE), start, grads)
    right = trajectory(precond.muon(0.01, scale=orthogonal.width(), **WHOLE), start, grads)
    for k, w in start.items():
        assert distance(path[k], apart[k], w) < 1e-13
        assert (distance(wrong[k], right[k], w) > 0.1) == (k != "up")


def test_a_matrix_with_its_bias_is_not_transposed():
    params = {"kernel": jnp.ones((6, 3)), "bias": jnp.ones(3)}
    tx = precond.muon(0.01, views=[("kernel", precond.View((0, 1), row="bias"))])
    assert set(optax.tree.get(tx.init(params), "error")) == {"7x3"}
    assert all(x.any() for x in tx.update(params, tx.init(params))[0].values())


@pytest.mark.usefixtures("x64")
def test_parts_of_a_fused_kernel_and_heads_are_matrices_of_their_own():
    shapes, polynomials = {"qkv": (4, 15), "query": (4, 3, 5)}, orthogonal.jordan()
    start, grads = gradients(shapes, 1, seed=5)[0], gradients(shapes, 6)
    views = [("qkv", precond.View((0, 2), shape=(4, 3, 5))), ("query", precond.View((0, 2)))]
    path = trajectory(precond.muon(0.01, b1=0.9, views=views), start, grads)
    given = {"rate": 0.01, "b1": 0.9, "polynomials": polynomials, "factor": rms}
    for k, w in start.items():
        parts = [np.moveaxis(x[k].reshape(4, 3, 5), 1, 0) for x in grads]
        first = np.moveaxis(w.reshape(4, 3, 5), 1, 0)
        expected = np.stack([definition(first[i], [p[i] for p in parts], **given) for i in range(3)], axis=2)
        assert distance(path[k], expected.reshape(6, *w.shape), w) < 1e-12


@pytest.mark.parametrize(("side", "shifts"), [(511, [0, 0, 0]), (512, [0, 1, 2])])
def test_matrices_of_unique_shapes_go_to_idle_devices_if_they_are_large(side, shifts):
    names = [f"{side}x{side + i}" for i in range(3)]
    stacks = [jnp.zeros((1, side, side + i)) for i in range(3)]
    origins = {name: (Origin(name, None, 1, True),) for name in names}
    found = homes.homes_of(names, stacks, BlockInfo(origins=origins, collectives=SINGLE._replace(count=8)))
    assert sorted(home.shift for home in found) == shifts
    assert {(home.rows, home.devices) for home in found} == {(1, 1)}
