"""One character through time: morphs, animations and when their frames stand where."""
