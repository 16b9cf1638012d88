"""Policies put to the test: system calls that are really made, under the filter that is loaded."""
