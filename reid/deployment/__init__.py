"""What trained weights are for: programs for others to run, and searching people."""
