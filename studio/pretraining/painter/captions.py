"""Danbooru-style tags of a picture.

This module does not know how anything is drawn.
"""

from __future__ import annotations

from typing import Any

from .expressions import EXPRESSIONS
from .spec import ACCESSORIES, ALL_OUTFITS, BACKGROUNDS, CHOICES, CharacterSpec

HAIR_STYLE_TAGS = {
    "straight": "straight hair", "wavy": "wavy hair", "bob": "bob cut", "spiky": "spiky hair", "messy": "messy hair",
    "braids": "twin braids", "buns": "double bun", "twintails": "twintails", "ponytail": "ponytail",
}  # fmt: skip
BANGS_TAGS = {
    "blunt": "blunt bangs", "choppy": "hair between eyes", "swept": "swept bangs", "parted": "parted bangs",
    "crossed": "crossed bangs", "micro": "short bangs",
}  # fmt: skip
GAZE_TAGS = {
    "viewer": "looking at viewer", "left": "looking to the side", "right": "looking to the side",
    "up": "looking up", "down": "looking down",
}  # fmt: skip
OUTFIT_TAGS = {
    "shirt and tie": ("{} vest", "dress shirt", "necktie"),
    "bow blouse": ("{} bow", "white shirt"),
    "suit": ("{} jacket", "suit", "necktie"),
    "serafuku": ("{} sailor collar", "serafuku", "school uniform"),
    "blazer": ("{} blazer", "school uniform"),
    "maid": ("{} dress", "maid", "maid apron"),
    "armor": ("{} armor", "breastplate", "shoulder armor"),
    "tank top": ("{} tank top", "bare shoulders"),
    "frilled dress": ("{} dress", "frills"),
}
ACCESSORY_TAGS = {
    "ribbon": "hair ribbon", "flower": "hair flower", "mole": "mole under eye", "bandaid": "bandaid on face",
}  # fmt: skip
BACKGROUND_TAGS = {
    "plain": "simple background", "gradient": "gradient background", "circle": "circle background",
    "dots": "polka dot background", "stripes": "striped background", "sky": "sky, clouds", "petals": "petals",
    "night": "starry sky", "bokeh": "bokeh", "splash": "paint splatter", "sunset": "sunset",
    "rays": "sunburst background", "cherry blossoms": "cherry blossoms", "classroom": "classroom",
    "city": "city lights", "forest": "forest", "beach": "beach", "snow": "snow", "room": "indoors",
}  # fmt: skip
COLORLESS_BACKGROUNDS = (
    "sky", "night", "sunset", "cherry blossoms", "classroom", "city", "forest", "beach", "snow", "room",
)  # fmt: skip


def tags(spec: CharacterSpec) -> list[str]:
    """Tags of everything that the picture shows, most general first."""
    expression = spec.expression
    found = [
        "1girl" if spec.gender == "girl" else "1boy",
        "solo",
        "upper body",
        spec.emotion,
        f"{spec.style} style",
        f"{spec.hair_color} hair",
        f"{spec.hair_length} hair",
        HAIR_STYLE_TAGS[spec.hair_style],
        BANGS_TAGS[spec.bangs],
    ]
    if spec.tip_color:
        found += ["gradient hair", f"{spec.tip_color} hair tips"]
    if spec.shows_ahoge:
        found.append("ahoge")
    if not expression.closed:
        found += [f"{spec.eye_color} eyes", GAZE_TAGS[spec.gaze]]
    found.append(spec.skin)
    found += expression.tags
    found += [name.format(spec.outfit_color) for name in OUTFIT_TAGS.get(spec.outfit, ("{} " + spec.outfit,))]
    if spec.outfit == "blazer":
        found.append("bowtie" if spec.gender == "girl" else "necktie")
    if spec.headdress:
        found.append("maid headdress")
    found += [ACCESSORY_TAGS.get(accessory, accessory) for accessory in spec.accessories]
    found.append(BACKGROUND_TAGS[spec.background])
    if spec.background not in COLORLESS_BACKGROUNDS:
        found.append(f"{spec.background_color} background")
    if abs(spec.tilt) > 6:
        found.append("head tilt")
    if abs(spec.turn) > 0.5:
        found.append("facing to the side")
    return found


def vocabulary() -> list[str]:
    """Every tag that a picture can have, sorted."""
    choices: list[dict[str, Any]] = [{name: value} for name, values in CHOICES.items() for value in values]
    alone = [CharacterSpec(**choice) for choice in choices]
    alone += [CharacterSpec(outfit="blazer", gender="boy")]
    alone += [CharacterSpec(accessories=(name,)) for name in ACCESSORIES]
    alone += [CharacterSpec(emotion=name, variant=i) for name, ways in EXPRESSIONS.items() for i in range(len(ways))]
    alone += [CharacterSpec(ahoge=True), CharacterSpec(tilt=9.0), CharacterSpec(turn=0.9)]
    for color in CHOICES["outfit_color"]:
        alone += [CharacterSpec(outfit=name, outfit_color=color) for name in ALL_OUTFITS]
        alone += [CharacterSpec(background=name, background_color=color) for name in BACKGROUNDS]
    return sorted({tag for spec in alone for tag in tags(spec)})
