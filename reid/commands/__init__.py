"""The commands, a module each: what it can be told, and `main`, which does it and returns the exit code."""
