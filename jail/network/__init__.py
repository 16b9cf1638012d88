"""What a jail may reach: the words for it, and one driver a file."""
