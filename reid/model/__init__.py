"""The network of the paper, part by part."""
