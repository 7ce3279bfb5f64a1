"""Erasing and evaluating on the machines of a Ray cluster."""
