"""What a person sees in the browser. It asks `studio.service` for everything and knows no torch, no model, no file format."""
