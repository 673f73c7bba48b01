"""Invertible layers, one module a family; base.py holds their contract and registry.py lists them."""
