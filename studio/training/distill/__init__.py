"""Few-step distillation."""
