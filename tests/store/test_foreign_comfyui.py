"""ComfyUI's graphs: followed from the sampler to its prompts, and rebuilt from the canvas alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image
from support.damaged import GRAPH
from support.foreign_recipes import expect, with_json
from support.pictures import encoded, image

from studio.core.specs import LoraRef
from studio.store import metadata
from studio.store.metadata import ReadRecipe
from studio.store.metadata.facts import HIRES, SOURCE


def graph(**changed: Any) -> dict[str, Any]:
    nodes = json.loads(json.dumps(GRAPH))
    nodes["3"]["inputs"]["sampler_name"] = "euler_ancestral"
    nodes["6"]["inputs"]["text"], nodes["7"]["inputs"]["text"] = "1girl, blue hair", "lowres"
    for id, (kind, inputs) in changed.items():
        nodes[id.removeprefix("n")] = {"class_type": kind, "inputs": inputs}
    return nodes


def comfy(nodes: dict[str, Any]) -> ReadRecipe:
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


def test_comfyui_s_schedule_of_its_own_and_refiner() -> None:
    sampler = {"add_noise": True, "noise_seed": 4242, "cfg": 6.5, "sampler": ["62", 0], "sigmas": ["63", 0]}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    nodes = graph(
        n3=("SamplerCustom", sampler | links),
        n62=("KSamplerSelect", {"sampler_name": "dpmpp_2m"}),
        n63=("KarrasScheduler", {"steps": 24, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0}),
    )
    found = comfy(nodes).spec
    assert (found.sampler, found.steps, found.seed, found.guidance) == ("dpmpp_2m_karras", 24, 4242, 6.5)
    advanced = {"steps": 24, "cfg": 6.5, "sampler_name": "euler_ancestral", "scheduler": "normal"}
    base = {"add_noise": "enable", "noise_seed": 4242, "start_at_step": 0, "end_at_step": 20}
    rest = {"add_noise": "disable", "noise_seed": 0, "start_at_step": 20, "end_at_step": 10000}
    nodes = graph(
        n3=("KSamplerAdvanced", advanced | base | links),
        n30=("KSamplerAdvanced", advanced | rest | links | {"latent_image": ["3", 0], "model": ["40", 0]}),
        n40=("CheckpointLoaderSimple", {"ckpt_name": "refiner.safetensors"}),
        n8=("VAEDecode", {"samples": ["30", 0]}),
        n9=("SaveImage", {"images": ["8", 0]}),
    )
    found = comfy(nodes)
    expect(found)
    assert (found.spec.model, found.notes) == ("a", (HIRES,))


def test_comfyui_s_nodes_that_hand_on_what_they_get() -> None:
    nodes = graph(
        n20=("Reroute", {"": ["4", 0]}),
        n21=("Seed (rgthree)", {"seed": 4242}),
        n22=("Any Switch (rgthree)", {"any_01": ["20", 0]}),
        n23=("CR Prompt Text", {"prompt": "1girl, blue hair"}),
    )
    nodes["3"]["inputs"] |= {"model": ["22", 0], "seed": ["21", 0]}
    nodes["6"]["inputs"]["text"] = ["23", 0]
    found = comfy(nodes)
    expect(found)
    assert found.spec.model == "a"
    nodes["6"] = {"class_type": "Encode somehow", "inputs": {"clip": ["4", 1]}}
    found = comfy(nodes)
    assert found.spec.prompt == ""
    assert found.notes == ("Its words couldn't be found in its workflow.",)


PIPED = {
    "ckpt_name": "a.safetensors", "positive": "1girl, blue hair", "negative": "lowres", "empty_latent_width": 256,
    "empty_latent_height": 320, "clip_skip": -2,
}  # fmt: skip
DRAWN = {"seed": 4242, "steps": 24, "cfg": 6.5, "sampler_name": "euler_ancestral", "scheduler": "normal", "denoise": 1}


@pytest.mark.parametrize(
    "nodes",
    [
        {
            "1": ("Efficient Loader", PIPED | {"lora_name": "ink.safetensors", "lora_model_strength": 0.6}),
            "2": ("KSampler (Efficient)", DRAWN | {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2],
                                                   "latent_image": ["1", 3]}),
        },
        {
            "1": ("easy fullLoader", PIPED | {"lora_name": "ink.safetensors", "lora_model_strength": 0.6}),
            "2": ("easy preSampling", DRAWN | {"pipe": ["1", 0]}),
            "3": ("easy kSampler", {"pipe": ["2", 0], "image_output": "Save"}),
        },
    ],
    ids=["efficiency", "easy use"],
)  # fmt: skip
def test_comfyui_s_packs_that_lead_all_through_one_node(nodes: dict[str, tuple[str, dict[str, Any]]]) -> None:
    found = comfy({id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()})
    expect(found)
    assert (found.spec.model, found.spec.clip_skip, found.notes) == ("a", 2, ())
    assert found.spec.loras == (LoraRef(path="ink", weight=0.6),)


@pytest.mark.parametrize("by_name", [False, True])
def test_what_lives_on_the_canvas_only(by_name: bool) -> None:
    """A rerouted prompt, a seed in a node of its own, a bypassed LoRA and a model that is rerouted, or set and got."""
    nodes = [
        {
            "id": 3, "type": "KSampler", "widgets_values": [1, "randomize", 24, 6.5, "euler_ancestral", "normal", 1],
            "inputs": [{"name": "model", "link": 10}, {"name": "positive", "link": 1}, {"name": "negative", "link": 2},
                       {"name": "latent_image", "link": 3}, {"name": "seed", "link": 11}],
        },
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["1girl, blue hair"]},
        {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["lowres"]},
        {"id": 5, "type": "EmptyLatentImage", "widgets_values": [256, 320, 1]},
        {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["a.safetensors"]},
        {"id": 24, "type": "Reroute", "inputs": [{"name": "", "link": 17}]},
        {"id": 21, "type": "PrimitiveNode", "widgets_values": [4242, "fixed"]},
        *(
            {
                "id": id, "type": "LoraLoader", "mode": mode, "widgets_values": [name, 0.6, 1],
                "inputs": [{"name": "clip", "type": "CLIP", "link": link + 1},
                           {"name": "model", "type": "MODEL", "link": link}],
                "outputs": [{"type": "MODEL"}, {"type": "CLIP"}],
            }
            for id, mode, name, link in ((22, 4, "off.safetensors", 13), (23, 0, "ink.safetensors", 15))
        ),
        {"id": 40, "type": "KSampler", "mode": 2, "widgets_values": [9, "", 9, 9, "ddim", "normal", 1],
         "inputs": [{"name": "latent_image", "link": 18}, {"name": "positive", "link": 19}]},
    ]  # fmt: skip
    links = [
        [1, 24, 0, 3, 1, "x"], [2, 7, 0, 3, 2, "x"], [3, 5, 0, 3, 3, "x"], [11, 21, 0, 3, 4, "x"],
        [12, 22, 0, 20, 0, "x"], [13, 23, 0, 22, 0, "x"], [14, 23, 1, 22, 1, "x"], [15, 4, 0, 23, 0, "x"],
        [16, 4, 1, 23, 1, "x"], [17, 6, 0, 24, 0, "x"], [18, 3, 0, 40, 0, "x"], [19, 6, 0, 40, 1, "x"],
    ]  # fmt: skip
    if by_name:
        nodes += [
            {"id": 20, "type": "SetNode", "widgets_values": ["m"], "inputs": [{"name": "MODEL", "link": 12}]},
            {"id": 31, "type": "GetNode", "widgets_values": ["m"]},
        ]
        links.append([10, 31, 0, 3, 0, "x"])
    else:
        nodes.append({"id": 20, "type": "Reroute", "inputs": [{"name": "", "link": 12}]})
        links.append([10, 20, 0, 3, 0, "x"])
    found = metadata.read(with_json({"nodes": nodes, "links": links}, "workflow"))
    expect(found)
    assert (found.spec.model, found.spec.loras) == ("a", (LoraRef(path="ink", weight=0.6),))
    links.append([12, 20, 0, 20, 0, "x"])  # a circle
    metadata.read(with_json({"nodes": nodes, "links": links}, "workflow"))


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
