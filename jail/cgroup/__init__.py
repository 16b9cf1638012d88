"""A delegated cgroup v2 subtree: found, arranged, and left as it was (cgroups(7))."""
