"""From tar shards to batches of clips."""
