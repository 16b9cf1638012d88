"""Honest: how many primes are there below each number on stdin?"""

import sys


def count_primes(limit: int) -> int:
    """By the sieve of Eratosthenes."""
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return sum(sieve)


for line in sys.stdin:
    print(count_primes(int(line)))
