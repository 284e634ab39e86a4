"""LoRA training of organisms: recipes, data, schedules, runs and their manifests."""
