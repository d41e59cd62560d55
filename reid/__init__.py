"""Training, evaluation and use of visible-infrared video person re-identification models."""
