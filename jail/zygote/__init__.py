"""The process that clones, and what runs in its children before the agent: no trio, one thread."""
