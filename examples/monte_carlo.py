"""The steps of monte_carlo.yaml: plain functions that know nothing of jobmill."""

from __future__ import annotations

import math
import random


def throw(darts: int, seed: int, number: int, inside: int = 0, thrown: int = 0) -> tuple[int, int]:
    """Throw one round of darts at the unit square; return how many hit the quarter circle, of how many, so far."""
    draw = random.Random(f"{seed}.{number}").random
    hits = 0
    for _ in range(darts):
        x, y = draw(), draw()
        hits += x * x + y * y <= 1.0
    print(f"round {number}: {hits} of {darts} inside")
    return inside + hits, thrown + darts


def estimate(inside: int, thrown: int, first: dict[str, int]) -> dict[str, float | int]:
    """Return pi from all rounds, its standard error, and what the first round alone had said."""
    share = inside / thrown
    return {
        "pi": 4 * share,
        "standard_error": 4 * math.sqrt(share * (1 - share) / thrown),
        "after_first_round": 4 * first["inside"] / first["thrown"],
        "darts": thrown,
    }
