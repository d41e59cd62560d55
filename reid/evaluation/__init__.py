"""Embeddings, and the retrieval metrics of the field."""
