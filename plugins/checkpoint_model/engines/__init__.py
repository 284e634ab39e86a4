"""Engines: what generates answers from a base and the adapters on it."""
