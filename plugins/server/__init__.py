"""An OpenAI-compatible endpoint over the checkpoints of a folder of runs: `em serve`."""
