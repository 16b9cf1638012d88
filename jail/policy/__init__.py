"""Seccomp policies: data with a reason on every rule, and the BPF made of them."""
