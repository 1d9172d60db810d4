"""What programs for A1111's web UI send: every field with its usual value, those that mean nothing here as well."""

from __future__ import annotations

from typing import Any

# SillyTavern's extension "Image Generation" with the source "Stable Diffusion Web UI"
SILLYTAVERN: dict[str, Any] = {
    "prompt": "best quality, 1girl, smile", "negative_prompt": "lowres", "sampler_name": "DPM++ 2M SDE",
    "scheduler": "Karras", "steps": 2, "cfg_scale": 7, "width": 512, "height": 768, "restore_faces": False,
    "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2, "hr_additional_modules": [],
    "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": None,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "forge_additional_modules": []},
    "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
    "do_not_save_grid": False, "do_not_save_samples": False,
    "alwayson_scripts": {"ADetailer": {"args": [True, True, {"ad_model": "face_yolov8n.pt"}]}},
}  # fmt: skip

# A plugin of krita on the same routes: the canvas, or the selection with its mask
KRITA_TXT2IMG: dict[str, Any] = {
    "prompt": "a cat", "negative_prompt": "", "sampler_name": "Euler a", "steps": 2, "cfg_scale": 7.0, "seed": -1,
    "subseed": -1, "subseed_strength": 0, "seed_resize_from_h": -1, "seed_resize_from_w": -1, "batch_size": 1,
    "n_iter": 1, "width": 128, "height": 96, "styles": [], "restore_faces": False, "tiling": False, "eta": 0,
    "s_churn": 0, "s_noise": 1, "s_tmax": 0, "s_tmin": 0, "refiner_switch_at": 0.8, "script_args": [],
    "alwayson_scripts": {}, "save_images": False,
    "override_settings": {"img2img_color_correction": True, "sd_vae": "None"},
    "override_settings_restore_afterwards": False,
}  # fmt: skip
KRITA_IMG2IMG: dict[str, Any] = KRITA_TXT2IMG | {
    "denoising_strength": 0.5, "resize_mode": 0, "include_init_images": False, "image_cfg_scale": 1.5,
    "initial_noise_multiplier": 1,
}  # fmt: skip
KRITA_INPAINT: dict[str, Any] = KRITA_IMG2IMG | {
    "mask_blur": 4, "mask_blur_x": 4, "mask_blur_y": 4, "inpainting_fill": 1, "inpaint_full_res": True,
    "inpaint_full_res_padding": 32, "inpainting_mask_invert": False,
}  # fmt: skip

# What it asks for before it draws, and the kind of JSON that it goes through
KRITA_ASKS = {
    "/queue/status": dict, "/sdapi/v1/options": dict, "/sdapi/v1/sd-models": list, "/sdapi/v1/sd-vae": list,
    "/sdapi/v1/samplers": list, "/sdapi/v1/upscalers": list, "/sdapi/v1/face-restorers": list,
    "/sdapi/v1/prompt-styles": list, "/sdapi/v1/scripts": dict, "/sdapi/v1/loras": list,
    "/sdapi/v1/embeddings": dict, "/sdapi/v1/hypernetworks": list, "/sdapi/v1/progress": dict,
}  # fmt: skip
SILLYTAVERN_ASKS = {
    "/sdapi/v1/options": dict, "/sdapi/v1/sd-models": list, "/sdapi/v1/samplers": list, "/sdapi/v1/schedulers": list,
    "/sdapi/v1/upscalers": list, "/sdapi/v1/latent-upscale-modes": list, "/sdapi/v1/sd-vae": list,
    "/sdapi/v1/sd-modules": list, "/sdapi/v1/progress": dict,
}  # fmt: skip
