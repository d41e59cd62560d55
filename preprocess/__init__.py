"""From a raw data set to tar shards and a manifest. Never imports torch."""
