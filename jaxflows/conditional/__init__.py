"""Conditioning a flow: observations, the constraint, posteriors, their bound, completions and diagnostics."""
