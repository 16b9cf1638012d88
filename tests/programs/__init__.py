"""Real programs, unchanged, under each policy that claims to run them."""
