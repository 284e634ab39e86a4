"""How the rows of a step pass through the base: packed, cut to the memory, compiled, captured."""
