"""What a person sees in the browser. It asks `studio.service` for everything and knows no torch and no file format."""
