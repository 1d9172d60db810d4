"""From noise to latents: text, denoising, samplers. Knows no file and no job."""
