"""Hostile: takes memory, and writes to all of it, until somebody stops it."""

hoard = []
while True:
    hoard.append(b"x" * 2**20)
