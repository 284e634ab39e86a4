"""Judges compared on finished logs, and scores read again from them."""
