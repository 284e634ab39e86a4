"""From Inspect logs to the frame of answers."""
