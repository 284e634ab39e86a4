"""Executors: where units of work are done. All are one interface, see `protocol`."""
