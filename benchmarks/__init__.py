"""Benchmarks, each a script runnable alone: ``python -m benchmarks.NAME --quick``."""
