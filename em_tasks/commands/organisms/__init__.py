"""Commands that make organisms, or take them in."""
