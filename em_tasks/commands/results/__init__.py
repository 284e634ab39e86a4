"""Commands that make something of answers."""
