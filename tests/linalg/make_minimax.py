"""The table against which the minimax polynomials are tested, by Remez's exchange with 60 digits and no grid.

    python tests/linalg/make_minimax.py            writes minimax.json beside this file

Between the ends of an interval, the error `1 - x^(1/p) h(x)` has its extrema where `sum_j (j p + 1) h_j x^j` is 0: for
degrees 1 and 2 they are known in closed form, and the exchange converges to all digits.
"""

import json
from decimal import Decimal, getcontext
from pathlib import Path

TABLE = Path(__file__).parent / "minimax.json"
TOLERANCE = "1e-6"
ROOTS = (1, 2, 3, 4, 6, 8)
LOWS = ("1e-2", "1e-6", "1e-10")


def solve(rows: list[list[Decimal]]) -> list[Decimal]:
    """The solution of a linear system, each row with its right-hand side at the end."""
    for i in range(len(rows)):
        rows[i:] = sorted(rows[i:], key=lambda row: -abs(row[i]))
        for k in range(len(rows)):
            if k != i:
                ratio = rows[k][i] / rows[i][i]
                rows[k] = [x - ratio * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def error(p: int, coefficients: list[Decimal], x: Decimal) -> Decimal:
    """`1 - x^(1/p) h(x)`."""
    return 1 - x ** (1 / Decimal(p)) * sum(c * x**j for j, c in enumerate(coefficients))


def between(p: int, coefficients: list[Decimal]) -> list[Decimal]:
    """Where the error has its extrema."""
    scaled = [(j * p + 1) * c for j, c in enumerate(coefficients)]
    if len(scaled) == 2:
        return [-scaled[0] / scaled[1]]
    middle = -scaled[1] / (2 * scaled[2])
    apart = (middle**2 - scaled[0] / scaled[2]).sqrt()
    return [middle - apart, middle + apart]


def minimax_step(p: int, low: Decimal, high: Decimal, degree: int) -> tuple[list[Decimal], Decimal]:
    """Coefficients, the constant first, and error of the best polynomial on an interval."""
    inner = [low + (high - low) * Decimal(j) / (degree + 1) for j in range(1, degree + 1)]
    for _ in range(100):
        points = [low, *inner, high]
        rows = [
            [*(x ** (1 / Decimal(p)) * x**j for j in range(degree + 1)), Decimal((-1) ** i), Decimal(1)]
            for i, x in enumerate(points)
        ]
        *coefficients, level = solve(rows)
        inner = between(p, coefficients)
        if abs(max(abs(error(p, coefficients, x)) for x in (low, *inner, high)) - abs(level)) < Decimal("1e-40"):
            return coefficients, abs(level)
    raise ArithmeticError(f"p={p}, low={low}, high={high}, degree={degree}: the exchange does not converge.")


def greedy(p: int, low: Decimal, tolerance: Decimal, gentle: int) -> list[tuple[list[Decimal], Decimal]]:
    """Steps until the tolerance is reached: so many of degree 1, then of degree 2, each on a longer interval."""
    slack = tolerance ** (1 / Decimal(3)) / 2
    steps, ends = [], (low, Decimal(1))
    while not steps or steps[-1][1] > tolerance:
        degree = 1 if len(steps) < gentle else 2
        steps.append(minimax_step(p, ends[0] * (1 - slack), ends[1] * (1 + slack), degree))
        ends = (1 - steps[-1][1]) ** p, (1 + steps[-1][1]) ** p
    return steps


def products(p: int, steps: list[tuple[list[Decimal], Decimal]]) -> int:
    """Of matrices: M^2 for a polynomial of degree 2; after it X h, and M between two powers of h by squaring."""
    bits = bin(max(p // 2, 1))[2:]
    power = len(bits) - 1 + bits.count("1") - 1
    return sum(len(coefficients) == 3 for coefficients, _ in steps) + (power + 3) * (len(steps) - 1)


def minimax_steps(p: int, low: Decimal, tolerance: Decimal) -> list[tuple[list[Decimal], Decimal]]:
    """Three steps of degree 1; from 1e-5 on, of one to three of them, with which the products are fewest."""
    gentle = (3,) if low < Decimal("1e-5") else (3, 2, 1)
    return min((greedy(p, low, tolerance, n) for n in gentle), key=lambda steps: products(p, steps))


def table() -> dict:
    """All roots at all conditions, rounded to float64."""
    steps = {
        str(p): {
            low: [
                {"coefficients": [float(c) for c in coefficients], "error": float(level)}
                for coefficients, level in minimax_steps(p, Decimal(low), Decimal(TOLERANCE))
            ]
            for low in LOWS
        }
        for p in ROOTS
    }
    return {"tolerance": float(TOLERANCE), "steps": steps}


if __name__ == "__main__":
    getcontext().prec = 60
    TABLE.write_text(json.dumps(table(), separators=(",", ":")) + "\n")
