"""The agent: what runs as PID 1 inside a jail. Standard library and msgpack only."""
