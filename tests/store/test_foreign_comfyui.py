"""ComfyUI's graphs: followed from the sampler to its prompts, and rebuilt from the canvas alone."""

from __future__ import annotations

import json
from typing import Any

from PIL import Image
from support.damaged import GRAPH
from support.foreign_recipes import expect, with_json
from support.pictures import encoded, image

from studio.core.specs import LoraRef
from studio.store import metadata
from studio.store.metadata import Read
from studio.store.metadata.facts import HIRES, SOURCE


def graph(**changed: Any) -> dict[str, Any]:
    nodes = json.loads(json.dumps(GRAPH))
    nodes["3"]["inputs"]["sampler_name"] = "euler_ancestral"
    nodes["6"]["inputs"]["text"], nodes["7"]["inputs"]["text"] = "1girl, blue hair", "lowres"
    for id, (kind, inputs) in changed.items():
        nodes[id.removeprefix("n")] = {"class_type": kind, "inputs": inputs}
    return nodes


def comfy(nodes: dict[str, Any]) -> Read:
    found = metadata.read(with_json(nodes, "prompt", workflow='{"nodes": []}'))
    assert (found.origin, found.program) == ("comfyui", "ComfyUI")
    return found


def test_comfyui_is_followed_from_its_sampler() -> None:
    found = comfy(graph())
    expect(found)
    assert (found.spec.model, found.notes) == ("a", ())
    text = {"image": encoded(image(), "WEBP", exif=_webp(graph()))}
    expect(metadata.read(text["image"]))


def _webp(nodes: dict[str, Any]) -> Image.Exif:
    entries = Image.Exif()
    entries[0x0110], entries[0x010F] = "prompt:" + json.dumps(nodes), 'workflow:{"nodes": []}'
    return entries


def test_comfyui_s_prompts_come_through_other_nodes() -> None:
    nodes = graph(
        n6=("CLIPTextEncode", {"text": ["20", 0], "clip": ["4", 1]}),
        n20=("StringConcatenate", {"string_a": ["21", 0], "string_b": "blue hair", "delimiter": ", "}),
        n21=("PrimitiveString", {"value": "1girl"}),
        n30=(
            "ControlNetApplyAdvanced",
            {"positive": ["6", 0], "negative": ["7", 0], "image": ["31", 0], "strength": 1},
        ),
    )
    nodes["3"]["inputs"] |= {"positive": ["30", 0], "negative": ["30", 1]}
    found = comfy(nodes)
    expect(found)
    assert found.notes == ("Its ControlNet image isn't in the file.",)
    joined = graph(
        n40=("ConditioningCombine", {"conditioning_1": ["6", 0], "conditioning_2": ["41", 0]}),
        n41=("CLIPTextEncode", {"text": "smile"}),
    )
    joined["3"]["inputs"]["positive"] = ["40", 0]
    assert comfy(joined).spec.prompt == "1girl, blue hair, smile"


def test_comfyui_s_loras_second_pass_and_source() -> None:
    nodes = graph(
        n10=(
            "LoraLoader",
            {"lora_name": "sub\\ink.safetensors", "strength_model": 0.6, "model": ["11", 0], "clip": ["4", 1]},
        ),
        n11=(
            "Power Lora Loader (rgthree)",
            {
                "lora_1": {"on": True, "lora": "b.safetensors", "strength": 0.3},
                "lora_2": {"on": False, "lora": "c", "strength": 1},
                "model": ["4", 0],
            },
        ),
        n12=(
            "KSampler",
            {
                "seed": 9,
                "steps": 9,
                "cfg": 3,
                "sampler_name": "ddim",
                "scheduler": "normal",
                "denoise": 0.4,
                "model": ["10", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["13", 0],
            },
        ),
        n13=("LatentUpscale", {"samples": ["3", 0], "width": 512, "height": 640}),
        n9=("SaveImage", {"images": ["14", 0]}),
        n14=("VAEDecode", {"samples": ["12", 0], "vae": ["4", 2]}),
    )
    nodes["3"]["inputs"]["model"] = ["10", 0]
    found = comfy(nodes)
    expect(found)
    assert found.spec.loras == (LoraRef(path="ink", weight=0.6), LoraRef(path="b", weight=0.3))
    assert found.notes == (HIRES,)
    started = graph(n5=("VAEEncode", {"pixels": ["50", 0]}), n50=("LoadImage", {"image": "x.png"}))
    started["3"]["inputs"]["denoise"] = 0.5
    found = comfy(started)
    assert found.spec.strength == 0.5
    assert SOURCE in found.notes


def test_comfyui_s_sampler_of_many_nodes() -> None:
    nodes = graph(
        n3=(
            "SamplerCustomAdvanced",
            {
                "noise": ["60", 0],
                "guider": ["61", 0],
                "sampler": ["62", 0],
                "sigmas": ["63", 0],
                "latent_image": ["5", 0],
            },
        ),
        n60=("RandomNoise", {"noise_seed": ["64", 0]}),
        n64=("PrimitiveInt", {"value": 4242}),
        n61=("CFGGuider", {"cfg": 6.5, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}),
        n62=("KSamplerSelect", {"sampler_name": "euler_ancestral"}),
        n63=("BasicScheduler", {"scheduler": "normal", "steps": 24, "denoise": 1.0, "model": ["4", 0]}),
    )
    found = comfy(nodes)
    expect(found)
    assert found.spec.model == "a"


def test_a_canvas_alone_is_rebuilt() -> None:
    nodes = [
        {
            "id": 3,
            "type": "KSampler",
            "widgets_values": [4242, "randomize", 24, 6.5, "euler_ancestral", "normal", 1],
            "inputs": [
                {"name": "positive", "link": 1},
                {"name": "negative", "link": 2},
                {"name": "latent_image", "link": 3},
            ],
        },
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["1girl, blue hair"]},
        {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["lowres"]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [256, 320, 1]},
    ]
    links = [[1, 6, 0, 3, 1, "CONDITIONING"], [2, 7, 0, 3, 2, "CONDITIONING"], [3, 5, 0, 3, 3, "LATENT"]]
    expect(metadata.read(with_json({"nodes": nodes, "links": links}, "workflow")))


def test_a_graph_that_goes_round_in_circles_ends() -> None:
    nodes = graph(
        n6=("CLIPTextEncode", {"text": ["7", 0]}),
        n7=("CLIPTextEncode", {"text": ["6", 0]}),
        n5=("LatentUpscale", {"samples": ["3", 0]}),
    )
    assert comfy(nodes).spec.prompt == ""
