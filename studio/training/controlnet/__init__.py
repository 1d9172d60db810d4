"""ControlNet training."""
