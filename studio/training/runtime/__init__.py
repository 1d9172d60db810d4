"""What every trainer stands on: device, precision and processes, memory, checkpoints, status, resume fingerprint."""
