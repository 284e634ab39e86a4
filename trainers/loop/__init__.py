"""What runs on torch while an organism is trained: steps, batches, saves, processes."""
