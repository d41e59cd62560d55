"""Experiments: many runs that one file describes, each a run like any other."""
