"""Pictures in and out: control images from drawings, and frames as files."""
