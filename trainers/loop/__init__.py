"""What runs on torch while an organism is trained: the Trainer, batches, saves, processes."""
