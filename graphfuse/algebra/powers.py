"""Powers of numbers: exact where they can be."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

PRIMES = [n for n in range(2, 100) if all(n % d for d in range(2, n))]

MAX_BITS = 900
"""Digits of a coefficient; within them every coefficient is a float64."""


def fits(number: Fraction) -> bool:
    """Whether a number could stand in a model."""
    return max(number.numerator.bit_length(), number.denominator.bit_length()) <= MAX_BITS


def number_power(number: Fraction, exponent: Fraction) -> tuple[Fraction, int] | None:
    """number^exponent for a positive number, as c * sqrt(r): exact for integers and square roots.

    r is a whole number without the square factors that are easily found, 1 where no root is left:
    sqrt(8) is 2 * sqrt(2), and so is 4 / sqrt(2). Other roots are float64s. None when the result is
    no number that could stand in a model.
    """
    whole = exponent.numerator // exponent.denominator
    if exponent.denominator == 2 and number > 0:
        top, bottom = number.numerator, number.denominator
        square, rest = _square_factor(top * bottom)
        coefficient = Fraction(square, bottom) * number**whole
        return (coefficient, rest) if fits(Fraction(rest)) and fits(coefficient) else None
    try:
        if exponent.denominator == 1:
            result = number**whole
        else:
            result = Fraction(float(number) ** float(exponent))
    except (OverflowError, ZeroDivisionError):
        return None
    return (result, 1) if result and fits(result) else None


def _square_factor(number: int) -> tuple[int, int]:
    """(s, r) with number = s^2 * r, and no square of a prime below 100 in r."""
    root = isqrt(number)
    if root * root == number:
        return root, 1
    square = 1
    for prime in PRIMES:
        while number % (prime * prime) == 0:
            number //= prime * prime
            square *= prime
    root = isqrt(number)
    return (square * root, 1) if root * root == number else (square, number)
