"""What every trainer stands on: its run folder, checkpoints, precision, memory, optimizers."""
