"""Training runs as folders and processes: what a server, a page and a trainer agree on without sharing memory."""
