"""A run on disk, without torch: its recipe, schedule, manifest, checkpoints and folder."""
