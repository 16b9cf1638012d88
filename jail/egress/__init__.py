"""What ``--network filtered`` is made of: the supervisor as the only way out, and a log of it."""
