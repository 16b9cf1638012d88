"""What one does with a jail: a demonstration, and short programs to start from."""
