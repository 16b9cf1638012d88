"""What it is for: honest and hostile programs, each in a jail of its own, and a verdict on each.

    python -m examples.demo

Afterwards it looks for what the hostile ones were after: a file of ours, a listener on this
machine, a daemon that lives on. Exits with 1 if anything differs from what must be.
"""
