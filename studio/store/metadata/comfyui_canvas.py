"""ComfyUI's canvas as the graph that it would have sent: nodes with their inputs by name, links as [id, slot].

What lives on the canvas only is resolved as its own page does: reroutes, values in nodes of their own, links that are
set and got by name, and nodes that are muted or bypassed.
"""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]
MAX_NODES = 5000
_MUTED, _BYPASSED = 2, 4
# Widgets of a node in the order in which a workflow keeps them; "" is what stands between.
_WIDGETS: dict[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "CLIPTextEncode": ("text",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "FluxGuidance": ("guidance",),
    "CFGGuider": ("cfg",),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "KarrasScheduler": ("steps",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveString": ("value",),
}


def api_form(workflow: Any) -> Graph:
    """The API form of a saved canvas, as far as the order of its nodes' widgets is known."""
    if not isinstance(workflow, dict) or not isinstance(workflow.get("nodes"), list):
        return {}
    nodes = {str(node.get("id")): node for node in workflow["nodes"][:MAX_NODES] if isinstance(node, dict)}
    canvas = _Canvas(nodes, workflow.get("links"))
    return {
        id: {"class_type": str(node.get("type")), "inputs": canvas.inputs(node)}
        for id, node in nodes.items()
        if node.get("mode") not in (_MUTED, _BYPASSED) and node.get("type") not in _VIRTUAL
    }


_VIRTUAL = ("Reroute", "PrimitiveNode", "SetNode", "GetNode", "Note", "MarkdownNote")


class _Canvas:
    def __init__(self, nodes: dict[str, dict[str, Any]], links: Any) -> None:
        self._nodes = nodes
        self._origins: dict[str, tuple[str, Any]] = {}  # id and slot of where a link begins
        for link in links if isinstance(links, list) else ():
            if isinstance(link, list) and len(link) >= 5:
                self._origins[str(link[0])] = str(link[1]), link[2]
            elif isinstance(link, dict):
                self._origins[str(link.get("id"))] = str(link.get("origin_id")), link.get("origin_slot", 0)
        self._set = {
            self._name(node): node for node in nodes.values() if node.get("type") == "SetNode" and self._name(node)
        }

    def inputs(self, node: dict[str, Any]) -> dict[str, Any]:
        """Widgets and links of a node by the names of its inputs."""
        kind, values = str(node.get("type")), node.get("widgets_values")
        if isinstance(values, dict):
            found: dict[str, Any] = dict(values)
        else:
            names = zip(_WIDGETS.get(kind, ()), values if isinstance(values, list) else (), strict=False)
            found = {name: value for name, value in names if name}
        for slot in _slots(node, "inputs"):
            origin = self._origin(slot.get("link"))
            if origin is not None:
                found[str(slot.get("name"))] = origin
        return found

    def _origin(self, link: Any) -> Any:
        """Where a link really comes from: [id, slot], or the value of a node that is nothing but one."""
        for _ in range(len(self._nodes) + 1):
            id, place = self._origins.get(str(link), (None, None))
            node = self._nodes.get(id) if id is not None else None
            if node is None or node.get("mode") == _MUTED:
                return None
            kind = node.get("type")
            if kind == "PrimitiveNode":
                values = node.get("widgets_values")
                return values[0] if isinstance(values, list) and values else None
            if kind == "GetNode":
                node = self._set.get(self._name(node), {})
            elif kind not in ("Reroute", "SetNode") and node.get("mode") != _BYPASSED:
                return [id, place]
            link = self._through(node, place)
        return None

    def _through(self, node: dict[str, Any], place: Any) -> Any:
        """The link into a node that comes out of it unchanged: a bypassed one hands on the first of the same kind."""
        linked = [slot for slot in _slots(node, "inputs") if slot.get("link") is not None]
        if node.get("mode") == _BYPASSED:
            outputs = _slots(node, "outputs")
            wanted = outputs[place].get("type") if isinstance(place, int) and 0 <= place < len(outputs) else None
            linked = [slot for slot in linked if slot.get("type") == wanted]
        return linked[0].get("link") if linked else None

    @staticmethod
    def _name(node: dict[str, Any]) -> str:
        values = node.get("widgets_values")
        return str(values[0]) if isinstance(values, list) and values else ""


def _slots(node: dict[str, Any], side: str) -> list[dict[str, Any]]:
    slots = node.get(side)
    return [slot for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []
