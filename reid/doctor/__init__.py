"""Looks for what would make a run fail, or be slow, before it is started."""
