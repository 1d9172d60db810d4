"""ComfyUI's graph of nodes, followed from the sampler that made the picture to its prompts, model, LoRAs and size.

The API form ({id: {"class_type", "inputs"}}, a link being [id, slot]) stands in the field `prompt`; `workflow` holds
the canvas, from which it is rebuilt (`comfyui_canvas`). Nodes of others are followed by the names of their inputs,
which they share with ComfyUI's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from studio.core.fields import fields
from studio.core.specs import GenerateSpec
from studio.store.metadata.comfyui_canvas import MAX_NODES, Graph, api_form
from studio.store.metadata.facts import CONTROL, HIRES, SEVERAL, Facts, Lora

MAX_DEPTH = 60
_WORDS = (
    "populated_text",
    "text",
    "string",
    "value",
    "prompt",
    "text_g",
    "text_l",
    "t5xxl",
    "clip_l",
    "prompt_text",
    "wildcard_text",
    "positive",
    "negative",
)
NO_WORDS = "Its words couldn't be found in its workflow."
_MODELS = ("ckpt_name", "unet_name", "base_ckpt_name", "model_name", "checkpoint")


def is_graph(data: Any) -> bool:
    """Whether `data` is nodes in the API form."""
    if not isinstance(data, dict):
        return False
    nodes = [node for node in data.values() if isinstance(node, dict) and "class_type" in node]
    return bool(nodes) and all(isinstance(node.get("inputs"), dict) for node in nodes)


def read(prompt: Any, workflow: Any = None) -> Facts | None:
    """What the graph draws; None where no sampler is found in it. Both are parsed JSON, either may be None."""
    graph = prompt if is_graph(prompt) else api_form(workflow)
    graph = {
        str(id): node for id, node in graph.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    if len(graph) > MAX_NODES:
        return None
    return _Reader(graph).facts()


class _Reader:
    """One graph. A link is followed once: a graph in a file may go round in circles."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.notes: list[str] = []
        self._texts: dict[str, str | None] = {}
        self._prompts: dict[tuple[str, str], list[str]] = {}

    def facts(self) -> Facts | None:
        samplers = self._samplers()
        if not samplers:
            return None
        first = samplers[-1]
        if len(samplers) > 1:
            self.notes.append(HIRES)
        facts = Facts("comfyui", "ComfyUI", notes=self.notes)
        facts.prompt = self._prompt(first, "positive")
        facts.negative = self._prompt(first, "negative")
        facts.seed = self._value(first, "noise_seed", "seed")
        facts.steps = self._value(first, "steps")
        facts.guidance = self._value(first, "cfg", "guidance")
        facts.sampler = str(self._value(first, "sampler_name") or "")
        facts.schedule = str(self._value(first, "scheduler") or self._schedule(first))
        self._model(first, facts)
        self._start(first, facts)
        return facts

    # --- links ----------------------------------------------------------------------------------------------------

    def _link(self, value: Any) -> str | None:
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in self.graph:
            return str(value[0])
        return None

    def _inputs(self, id: str) -> dict[str, Any]:
        inputs: dict[str, Any] = self.graph[id]["inputs"]
        return inputs

    def _kind(self, id: str) -> str:
        return str(self.graph[id].get("class_type", ""))

    def _upstream(self, *starts: Any, names: tuple[str, ...] = ()) -> Iterator[str]:
        """Nodes from `starts` (links) against the current, the nearest first; only through inputs of these `names`."""
        waiting = deque(id for start in starts if (id := self._link(start)) is not None)
        seen = set(waiting)
        while waiting:
            id = waiting.popleft()
            yield id
            for name, value in self._inputs(id).items():
                next = self._link(value)
                if next is not None and next not in seen and (not names or any(part in name for part in names)):
                    seen.add(next)
                    waiting.append(next)

    # --- samplers -------------------------------------------------------------------------------------------------

    def _is_sampler(self, id: str) -> bool:
        inputs = self._inputs(id)
        drawn = any(self._link(inputs.get(name)) for name in ("latent_image", "latent", "samples", "optional_latent"))
        words = "positive" in inputs or self._link(inputs.get("guider")) is not None
        return (
            (drawn or "seed" in inputs or "noise_seed" in inputs)
            and words
            and ("steps" in inputs or "sigmas" in inputs or "sampler_name" in inputs)
        )

    def _is_piped(self, id: str) -> bool:
        """A sampler of those packs that lead model, words and latent through one pipe."""
        inputs = self._inputs(id)
        return "steps" in inputs and "cfg" in inputs and ("seed" in inputs or "noise_seed" in inputs)

    def _samplers(self) -> list[str]:
        """The samplers behind what was saved, the last one first, along the way from latent to latent."""
        samplers = [id for id in self.graph if self._is_sampler(id)]
        samplers = samplers or [id for id in self.graph if self._is_piped(id)]
        saving = [id for id in self.graph if "save" in self._kind(id).lower() or "preview" in self._kind(id).lower()]
        reached = list(
            dict.fromkeys(n for id in saving for n in self._upstream(*self._inputs(id).values()) if n in samplers)
        )
        feeding = {
            id: [n for n in self._upstream(*self._drawn_from(id)) if n in samplers and n != id] for id in samplers
        }
        ends = [id for id in (reached or samplers) if not any(id in before for before in feeding.values())]
        if not samplers:
            return []
        last = (ends or reached or samplers)[0]
        if len(ends) > 1:
            self.notes.append("Its workflow draws more than one picture; this is the first of them.")
        return [last, *feeding[last]]

    def _drawn_from(self, id: str) -> list[Any]:
        drawn = ("samples", "image", "pipe")
        return [value for name, value in self._inputs(id).items() if "latent" in name or name in drawn]

    def _value(self, sampler: str, *names: str) -> Any:
        """A number or name of a sampler: its own, or of the nodes for noise, guider, sigmas and sampler."""
        helpers = [self._inputs(sampler).get(name) for name in ("noise", "guider", "sigmas", "sampler", "sampler_name")]
        for id in [sampler, *(node for helper in helpers for node in self._upstream(helper, names=names))]:
            for name in names:
                if name in self._inputs(id):
                    return self._number(self._inputs(id)[name])
        return None

    def _schedule(self, sampler: str) -> str:
        """Of a node that is a schedule by itself: KarrasScheduler."""
        kinds = [self._kind(id) for id in self._upstream(self._inputs(sampler).get("sigmas"))]
        found = next((kind for kind in kinds if kind.endswith("Scheduler") and kind != "BasicScheduler"), "")
        return found.removesuffix("Scheduler").lower()

    def _number(self, value: Any, depth: int = 0) -> Any:
        """What a link to a node that only holds a value stands for."""
        id = self._link(value)
        if id is None:
            return None if isinstance(value, list | dict) else value
        inputs = self._inputs(id)
        for name in ("value", "seed", "noise_seed", "int", "float", "number", "Number", "string"):
            if name in inputs and depth < MAX_DEPTH:
                return self._number(inputs[name], depth + 1)
        plain = [item for item in inputs.values() if isinstance(item, int | float) and not isinstance(item, bool)]
        return plain[0] if len(plain) == 1 else None

    # --- prompts --------------------------------------------------------------------------------------------------

    def _prompt(self, sampler: str, side: str) -> str:
        inputs = self._inputs(sampler)
        start = inputs.get(side)
        if (guider := self._link(inputs.get("guider"))) is not None:
            own = self._inputs(guider)
            start = own.get(side, own.get("conditioning") if side == "positive" else None)
        if start is None and side not in inputs:  # through a pipe
            pipes = (value for value in inputs.values() if self._link(value) is not None)
            start = next((self._inputs(id)[side] for id in self._upstream(*pipes) if side in self._inputs(id)), None)
        parts = list(dict.fromkeys(part for part in self._conditioning(start, side, 0) if part.strip()))
        if not parts and side == "positive" and self._link(start) is not None:
            self.notes.append(NO_WORDS)
        if len(parts) > 1:
            self.notes.append(SEVERAL)
        return ", ".join(part.strip().rstrip(",") for part in parts)

    def _conditioning(self, value: Any, side: str, depth: int) -> list[str]:
        """The prompts of a conditioning, whatever it went through on its way."""
        id = self._link(value)
        if id is None or depth > MAX_DEPTH:
            return [value] if isinstance(value, str) else []
        if (id, side) not in self._prompts:
            self._prompts[id, side] = []  # while it is looked at: for a way that comes back here
            self._prompts[id, side] = self._conditioned(id, side, depth)
        return self._prompts[id, side]

    def _conditioned(self, id: str, side: str, depth: int) -> list[str]:
        kind, inputs = self._kind(id), self._inputs(id)
        if "ZeroOut" in kind:
            return []
        if "ControlNet" in kind:
            self.notes.append(CONTROL)
        if side in inputs:
            return self._conditioning(inputs[side], side, depth + 1)
        further = [item for name, item in inputs.items() if "cond" in name.lower() and self._link(item) is not None]
        if further:
            return [part for item in further for part in self._conditioning(item, side, depth + 1)]
        text = self._text([id, 0], depth)
        return [] if text is None else [text]

    def _text(self, value: Any, depth: int) -> str | None:
        """The words of a node that has some, those of others put together."""
        if isinstance(value, str):
            return value
        id = self._link(value)
        if id is None or depth > MAX_DEPTH:
            return None
        if id not in self._texts:
            self._texts[id] = None
            self._texts[id] = self._words(id, depth)
        return self._texts[id]

    def _words(self, id: str, depth: int) -> str | None:
        inputs = self._inputs(id)
        for name in _WORDS:
            if name in inputs and (text := self._text(inputs[name], depth + 1)) is not None:
                second = {"text_g": "text_l", "t5xxl": "clip_l"}.get(name)
                other = self._text(inputs.get(second), depth + 1) if second else None
                return text if other in (None, text, "") else f"{text}, {other}"
        parts = [self._text(item, depth + 1) for name, item in sorted(inputs.items()) if _is_part(name)]
        words = [part for part in parts if part]
        between = inputs.get("delimiter", inputs.get("separator", ", "))
        if words:
            return (between if isinstance(between, str) else ", ").join(words)
        linked = [self._text(item, depth + 1) for item in inputs.values() if self._link(item) is not None]
        return next((part for part in linked if part), None)

    # --- model, LoRAs, size ---------------------------------------------------------------------------------------

    def _model(self, sampler: str, facts: Facts) -> None:
        starts = [self._inputs(sampler).get(name) for name in ("model", "guider", "pipe")]
        way = list(self._upstream(*starts, names=("model", "lora", "pipe")))
        if not any(self._model_name(id) for id in way):  # through nodes that call their inputs as they like
            way = list(self._upstream(*starts))
        for id in way:
            facts.loras += self._loras(self._inputs(id))
            facts.model = facts.model or self._model_name(id)
        for name, field in fields(GenerateSpec).items():
            for inputs in (node["inputs"] for node in self.graph.values()):
                theirs = [
                    inputs[key] for key in field.about.elsewhere.comfyui if isinstance(inputs.get(key), int | float)
                ]
                if theirs:
                    facts.others.setdefault(name, (field.label, field.about.elsewhere.read(theirs[0])))

    def _model_name(self, id: str) -> str:
        inputs = self._inputs(id)
        return next((inputs[key] for key in _MODELS if isinstance(inputs.get(key), str)), "")

    def _loras(self, inputs: dict[str, Any]) -> list[Lora]:
        """LoRAs of a loader, of a stack of numbered ones, and of rgthree's list of dictionaries."""
        loras: list[Lora] = []
        for name, value in inputs.items():
            if isinstance(value, dict) and isinstance(value.get("lora"), str):
                if value.get("on", True):
                    loras.append(Lora(value["lora"], value.get("strength", 1.0)))
            elif name.startswith("lora_name") and isinstance(value, str) and value not in ("None", ""):
                number = name.removeprefix("lora_name")
                weights = ("strength_model", f"model_weight{number}", f"lora_wt{number}", f"model_str{number}",
                           f"strength{number}", f"weight{number}", "lora_model_strength")  # fmt: skip
                if str(inputs.get(f"switch{number}", "On")).lower() not in ("off", "false"):
                    loras.append(Lora(value, next((self._number(inputs[w]) for w in weights if w in inputs), 1.0)))
        return loras

    def _start(self, sampler: str, facts: Facts) -> None:
        """The size of the empty latent, or that there was a picture instead."""
        picture = False
        for id in self._upstream(*self._drawn_from(sampler)):
            inputs = self._inputs(id)
            sides = [self._number(inputs.get(name)) for name in ("width", "height")]
            if sides == [None, None]:
                sides = [self._number(inputs.get(f"empty_latent_{name}")) for name in ("width", "height")]
            if None not in sides and facts.width is None:
                facts.width, facts.height = sides
            picture = picture or "LoadImage" in self._kind(id) or "VAEEncode" in self._kind(id)
        denoise = self._value(sampler, "denoise")
        if picture and isinstance(denoise, int | float) and 0 < denoise < 1:
            facts.strength = denoise


def _is_part(name: str) -> bool:
    """Of nodes that put texts together: text_a, text1, string_b, prompt_2."""
    return name.rstrip("0123456789").rstrip("_") in ("text", "string", "prompt", "str") or name[:-1] in (
        "text_", "string_", "prompt_", "str_",
    )  # fmt: skip
