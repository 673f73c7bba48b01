"""Inverse problems: noisy measurements of an event, and what infers the event from them."""
