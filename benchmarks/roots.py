"""Time, matrix products, error and residual of inverse roots, by every method here and by those of others.

    python benchmarks/roots.py                       writes results/roots-cpu.json and docs/images/roots-cpu.svg
    python benchmarks/roots.py --sizes 64 128        some sizes only
    python benchmarks/roots.py --draw                draws the picture again

Matrices of geometric spectrum in float32, with a ridge of one over their condition number. The error is that of the
root against float64, relative and in the spectral norm, the median of a stack; the residual is `root_residual`. The
methods take turns in one process. Those of others take the ridge from their own estimates of the largest eigenvalue,
which is why their errors do not go below 1e-4 at a condition number of 100 and large n.
"""

# First, for it sets the number of OpenBLAS's threads, which numpy reads when it is imported.
import measure  # isort: skip

import argparse
import functools
from collections.abc import Callable, Iterator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peer
import plots

from precond.linalg import composite_root, coupled_newton, eigh_root, root_residual

SIZES, CONDITIONS, ROOTS = (64, 128, 256, 512, 1024), (1e2, 1e4, 1e6, 1e8), (2, 4)
NEWTON = 32  # iterations of precond.newton(), its default
Solve = Callable[[jax.Array, float], tuple[jax.Array, jax.Array]]
RESIDUAL = jax.jit(root_residual, static_argnums=2)


@functools.cache
def methods(p: int) -> dict[str, Solve]:
    """From a stack and a relative ridge to roots, and the iterations that they took if that is told (else 0)."""

    def eigh(a: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
        return eigh_root(a, 1 / p, lambda top: eps * top)[0], jnp.zeros(len(a))

    def newton(a: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
        return coupled_newton(a, Fraction(1, p), jnp.full(len(a), eps), iterations=NEWTON), jnp.full(len(a), NEWTON)

    def composite(a: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
        ridge = functools.partial(jnp.full_like, fill_value=eps)  # the same for all, not from an estimate
        return composite_root(a, Fraction(1, p), ridge, least=eps)[0], jnp.zeros(len(a))

    def of_optax(a: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
        roots, _ = jax.vmap(lambda x: optax.matrix_inverse_pth_root(x, p, ridge_epsilon=eps))(a)
        return roots, jnp.zeros(len(a))

    def of_google(a: jax.Array, eps: float, *, eigh: bool) -> tuple[jax.Array, jax.Array]:
        roots, told = jax.vmap(lambda x: peer.google_root(x, p, eps, eigh=eigh))(a)
        return roots, told.inverse_pth_root_iters

    return {
        "precond.eigh": jax.jit(eigh),
        "precond.newton": jax.jit(newton),
        "precond.composite": jax.jit(composite, static_argnums=1),  # how many steps there are depends on the ridge
        "optax, newton": jax.jit(of_optax),
        "precondition-opt, newton": jax.jit(functools.partial(of_google, eigh=False)),
        "precondition-opt, eigh": jax.jit(functools.partial(of_google, eigh=True)),
    }


def equations(jaxpr: jax.extend.core.Jaxpr) -> Iterator:
    """Of a program and of those inside of it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def products(name: str, n: int, p: int, eps: float, iterations: float) -> int | None:
    """Of two n by n matrices, for each root; None for those that decompose, and where it is not told."""
    if name == "precond.composite":
        square = (2, n, n)
        program = jax.make_jaxpr(methods(p)[name], static_argnums=1)(jnp.zeros(square), eps)
        found = [e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"]
        return sum(all(v.aval.shape == square for v in e.invars) for e in found)
    return round(iterations * (int(np.log2(p)) + 2)) or None


def matrices(n: int, condition: float, copies: int) -> tuple[jax.Array, np.ndarray]:
    """A stack in float32, and the same with its ridge in float64."""
    rng, values, found = np.random.default_rng(n), np.geomspace(1 / condition, 1, n), []
    for _ in range(copies):
        q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        a = (q * values) @ q.T
        found.append(((a + a.T) / 2).astype(np.float32))
    return jnp.asarray(np.stack(found)), np.stack(found).astype(np.float64) + np.eye(n) / condition


def truth(damped: np.ndarray, p: int) -> np.ndarray:
    """The roots in float64."""
    values, vectors = np.linalg.eigh(damped)
    return (vectors * np.maximum(values, 1e-300)[:, None] ** (-1 / p)) @ np.swapaxes(vectors, 1, 2)


def error(roots: jax.Array, exact: np.ndarray) -> float:
    """The median over a stack; what is not finite counts as 0."""
    off, size = (np.linalg.norm(x, 2, (1, 2)) for x in (np.nan_to_num(roots) - exact, exact))
    return float(np.median(off / size))


def case(n: int, p: int, condition: float, repeats: int) -> list[dict]:
    """All methods on one stack."""
    stack, damped = matrices(n, condition, copies=max(2, 1024 // n))
    runs, rows, a, eps = {}, {}, jnp.asarray(damped, jnp.float32), 1 / condition
    exact = truth(damped, p)  # a minute of the largest size if it were done for every method
    for name, solve in methods(p).items():
        roots, iterations = solve(stack, eps)
        runs[name] = functools.partial(solve, stack, eps)
        rows[name] = {
            "n": n,
            "batch": len(stack),
            "p": p,
            "condition": condition,
            "method": name,
            "products": products(name, n, p, eps, float(np.mean(iterations))),
            "error": float(f"{error(roots, exact):.3g}"),
            "residual": float(f"{np.median(RESIDUAL(roots, a, Fraction(1, p))):.3g}"),
        }
    times = measure.alternating(runs, repeats)
    for name, row in rows.items():
        row["ms_per_matrix"] = float(f"{1e3 * np.median(times[name]) / len(stack):.3g}")
    return list(rows.values())


def gemm(n: int) -> float:
    """Milliseconds for a product of two matrices of a stack, at full precision."""
    stack = jax.random.normal(jax.random.key(0), (max(2, 1024 // n), n, n))
    run = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST)).lower(stack).compile()
    times = measure.alternating({"product": lambda: run(stack)}, 10)["product"]
    return float(f"{1e3 * np.median(times) / len(stack):.3g}")


def ratios(rows: list[dict]) -> list[dict]:
    """How many times faster composites are than the others, in every case."""
    found: dict[tuple, dict] = {}
    for row in rows:
        found.setdefault((row["n"], row["p"], row["condition"]), {})[row["method"]] = row["ms_per_matrix"]
    return [
        {"n": n, "p": p, "condition": condition}
        | {name: round(ms / by["precond.composite"], 2) for name, ms in by.items() if name != "precond.composite"}
        for (n, p, condition), by in found.items()
    ]


def plot(rows: list[dict], path: str) -> None:
    """Error against time at three sizes, for Shampoo's root: a line through the conditions for each method."""
    sizes, p = sorted({r["n"] for r in rows}), max(r["p"] for r in rows)
    sizes = sizes[:: max(len(sizes) // 2, 1)]
    figure, panels = plots.panels(len(sizes), height=2.6, sharey=True)
    for panel, n in zip(panels, sizes, strict=True):
        for marker, name in zip(plots.MARKERS, dict.fromkeys(r["method"] for r in rows), strict=False):
            mine = [r for r in rows if (r["n"], r["p"], r["method"]) == (n, p, name)]
            style = "-" if name.startswith("precond.") else ":"
            axes = ([r[which] for r in mine] for which in ("ms_per_matrix", "error"))
            plots.curve(panel, *axes, name, marker=marker, linestyle=style)
        panel.set(title=f"n = {n}, p = {p}", ylabel="error of the root")
        plots.plain_log(panel.xaxis, panel.yaxis)
    panels[-1].set(xlabel="milliseconds a matrix; to the left and below is better")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    plots.save(figure, measure.IMAGES / path)


def table(rows: list[dict]) -> None:
    """One line a case and method."""
    print(f"{'n':>5} {'p':>2} {'condition':>9}  {'method':26}", "ms/matrix products     error  residual")
    for r in rows:
        print(
            f"{r['n']:5} {r['p']:2} {r['condition']:9.0e}  {r['method']:26} {r['ms_per_matrix']:9.3f} "
            f"{r['products'] or '-':>8} {r['error']:9.1e} {r['residual']:9.1e}"
        )


def main() -> None:
    """Every method on every case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--draw", action="store_true", help="draw the committed result again")
    given = parser.parse_args()
    if given.draw:
        plot(measure.load("roots-cpu")["results"], "roots-cpu.svg")
        return
    rows: list[dict] = []
    for n in given.sizes:
        for p in ROOTS:
            for condition in CONDITIONS:
                rows += case(n, p, condition, given.repeats)
                print(n, p, f"{condition:.0e}", flush=True)
    name = f"roots-{jax.default_backend()}"
    setting = {"dtype": "float32", "spectrum": "geometric", "newton_iterations": NEWTON}
    rates = {str(n): gemm(n) for n in given.sizes}
    found = {"setting": setting, "ms_per_product": rates, "times_slower_than_composite": ratios(rows), "results": rows}
    measure.save(name, found)
    table(rows)
    plot(rows, f"{name}.svg")


if __name__ == "__main__":
    main()
