"""Measuring pictures: what they show (judge) and how they differ (metrics). Knows nothing of how they were made."""
