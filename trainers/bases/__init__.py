"""Bases that do not come from a hub: kept in the user's cache folder in the Hugging Face format."""
