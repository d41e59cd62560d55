"""The journal of a run, and what sends it to MLflow."""
