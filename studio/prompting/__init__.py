"""The prompt engine: what a request becomes before a model reads it. No picture and no tensor is known here."""
