"""Flax networks used inside flows and posteriors."""
