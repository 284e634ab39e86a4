"""The embedded toy world: a small language, models that speak it, and the programs that make both."""
