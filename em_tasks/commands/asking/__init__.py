"""Commands that ask checkpoints, or say what is asked."""
