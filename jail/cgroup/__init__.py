"""cgroup v2: the delegated subtree, a leaf of it for each jail, what the leaf's files say."""
