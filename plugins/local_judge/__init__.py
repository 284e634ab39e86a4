"""A small judge that runs here: distilled from published gpt-4o scores, with a card that says how far it is right."""
