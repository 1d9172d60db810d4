"""From what a drawing shows to the ways people would prompt for it: synonyms, any order, missing tags, plain sentences.

The uncaptioned share (`EMPTY`) is what classifier-free guidance (2207.12598) and distillation need: a true
unconditional branch. Part of it carries a usual negative prompt instead of nothing, so that such a prompt behaves as
"anything" and not as unknown words.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

EMPTY = 0.10
COLOR_KEPT = 0.8  # least share of captions that name hair and eyes: small things take the longest to learn

EMOTION_WORDS: dict[str, tuple[str, ...]] = {
    "happy": (
        "happy",
        "joyful",
        "cheerful",
        "delighted",
        "smiling",
        "happiness",
        "joy",
        "glad",
        "bright smile",
        "happy expression",
        "laughing",
        "excited",
    ),
    "angry": (
        "angry",
        "furious",
        "annoyed",
        "mad",
        "irritated",
        "rage",
        "glaring",
        "angry expression",
        "anger",
        "scowl",
        "frustrated",
    ),
    "sad": (
        "sad",
        "sorrowful",
        "unhappy",
        "melancholy",
        "gloomy",
        "sadness",
        "tearful",
        "sad expression",
        "depressed",
        "grief",
        "lonely",
    ),
    "surprised": (
        "surprised",
        "shocked",
        "astonished",
        "amazed",
        "startled",
        "surprise",
        "stunned",
        "surprised expression",
        "gasp",
        "wide eyes",
    ),
    "calm": (
        "calm",
        "serene",
        "peaceful",
        "relaxed",
        "tranquil",
        "composed",
        "gentle expression",
        "calm expression",
        "neutral",
        "quiet",
    ),
}
STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "casual": ("casual style", "casual", "casual clothes", "everyday style", "flat colors", "cel shading"),
    "formal": ("formal style", "formal", "elegant", "formal wear", "refined", "muted colors"),
    "artistic": ("artistic style", "artistic", "painterly", "watercolor", "watercolor (medium)", "brush strokes"),
    "realistic": ("realistic style", "realistic", "semi-realistic", "soft shading", "detailed shading", "lifelike"),
}
GENDER_WORDS = {
    "1girl": ("1girl", "1girl", "1girl", "girl", "woman", "female", "young woman"),
    "1boy": ("1boy", "1boy", "1boy", "boy", "man", "male", "young man"),
}
ALIASES: dict[str, tuple[str, ...]] = {
    "blonde hair": ("yellow hair", "golden hair", "blond hair"),
    "grey hair": ("gray hair", "silver hair"),
    "aqua hair": ("light blue hair", "cyan hair", "teal hair"),
    "purple hair": ("violet hair",),
    "orange hair": ("ginger hair",),
    "light brown hair": ("chestnut hair",),
    "aqua eyes": ("light blue eyes", "cyan eyes"),
    "yellow eyes": ("golden eyes", "amber eyes"),
    "purple eyes": ("violet eyes",),
    "grey eyes": ("gray eyes",),
    "twintails": ("twin tails", "pigtails"),
    "ponytail": ("high ponytail",),
    "hat": ("beret",),
    "witch hat": ("witch", "wizard hat", "pointed hat"),
    "straw hat": ("sun hat", "summer hat"),
    "cat ears": ("nekomimi", "animal ears", "catgirl", "kemonomimi"),
    "glasses": ("eyeglasses", "spectacles"),
    "eyepatch": ("eye patch",),
    "earrings": ("earring", "jewelry"),
    "one eye closed": ("wink", "winking"),
    "tongue out": ("tongue", "sticking tongue out", ":p"),
    "closed eyes": ("eyes closed", "sleeping", "shut eyes"),
    "looking to the side": ("looking away", "averting eyes", "sideways glance"),
    "looking at viewer": ("facing viewer", "eye contact"),
    "simple background": ("plain background",),
    "hair ribbon": ("ribbon", "hair bow"),
    "upper body": ("portrait", "bust", "head and shoulders"),
    "tan": ("tanned skin", "tan skin"),
    "dark skin": ("dark-skinned",),
    "starry sky": ("night sky", "stars"),
    "serafuku": ("sailor uniform", "sailor suit", "sailor fuku"),
    "school uniform": ("uniform", "student", "schoolgirl", "schoolboy"),
    "maid": ("maid outfit", "maid dress", "maid costume"),
    "maid apron": ("apron",),
    "maid headdress": ("frilled headband",),
    "breastplate": ("armor", "knight armor", "knight", "plate armor", "armour"),
    "suit": ("business suit", "formal suit"),
    "cherry blossoms": ("sakura", "cherry blossom", "cherry tree", "spring"),
    "classroom": ("school background", "school", "blackboard", "chalkboard"),
    "city lights": ("night city", "city at night", "city", "cityscape", "skyline", "city background"),
    "forest": ("woods", "trees", "forest background"),
    "beach": ("sea", "ocean", "seaside", "beach background"),
    "snow": ("snowing", "winter", "snowfall", "snowy background"),
    "indoors": ("room", "bedroom", "window", "curtains", "at home"),
}
QUALITY_WORDS = (
    "masterpiece",
    "best quality",
    "high quality",
    "highly detailed",
    "very aesthetic",
    "absurdres",
    "highres",
    "clean lines",
    "sharp focus",
    "beautiful",
)
CORE_WORDS = (
    "anime character",
    "detailed face",
    "anime",
    "character portrait",
    "anime style",
    "beautiful detailed eyes",
    "solo",
    "upper body",
)
NEGATIVE_WORDS = (
    "lowres",
    "bad anatomy",
    "bad hands",
    "worst quality",
    "low quality",
    "blurry",
    "jpeg artifacts",
    "watermark",
    "signature",
    "text",
    "deformed",
    "ugly",
    "extra limbs",
    "cropped",
    "error",
    "bad face",
    "poorly drawn face",
    "mutation",
    "disfigured",
    "multiple people",
    "monochrome",
    "normal quality",
)


def words() -> set[str]:
    """Every phrase that a caption may hold beside the painter's own tags: what the tokenizer is built from."""
    found = set(QUALITY_WORDS) | set(CORE_WORDS) | set(NEGATIVE_WORDS)
    for table in (EMOTION_WORDS, STYLE_WORDS, GENDER_WORDS, ALIASES):
        for options in table.values():
            found |= set(options)
    return found


def synonyms() -> dict[str, list[str]]:
    """The words of captions for each tag, itself left out: what a model that learnt from them takes for it."""
    found = {name: list(words) for name, words in EMOTION_WORDS.items()}
    found |= {f"{name} style": list(words) for name, words in STYLE_WORDS.items()}
    found |= {name: list(dict.fromkeys(words)) for name, words in GENDER_WORDS.items()}
    found |= {name: list(words) for name, words in ALIASES.items()}
    return {name: [word for word in words if word != name] for name, words in found.items()}


def neutral() -> list[str]:
    """The words of captions that ask for nothing that can be seen."""
    return [*QUALITY_WORDS, *CORE_WORDS, *NEGATIVE_WORDS]


def caption(
    tags: Sequence[str],
    labels: Mapping[str, str],
    rng: random.Random,
    synonyms: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """One way to ask for a drawing with these tags. `labels` holds its `emotion` and `style`.

    The emotion is named by one to four near-synonyms and its expression tags are often missing, so that each of the
    words alone carries it. Empty in a share of `EMPTY`.
    """
    if rng.random() < EMPTY:
        if rng.random() < 0.4:
            return ", ".join(rng.sample(NEGATIVE_WORDS, rng.randint(3, 10)))
        return ""
    emotion, style = labels["emotion"], labels["style"]
    style_tag = f"{style} style"
    keep = rng.choice((0.25, 0.6, 0.85, 0.95, 0.95))
    body: list[str] = []
    for tag in tags:
        if tag in (emotion, style_tag):
            continue
        if tag in GENDER_WORDS:
            if rng.random() < 0.95:
                body.append(rng.choice(GENDER_WORDS[tag]))
        elif rng.random() < (max(keep, COLOR_KEPT) if tag.endswith((" eyes", " hair")) else keep):
            options = list(ALIASES.get(tag, ())) + list((synonyms or {}).get(tag, ()))
            body.append(rng.choice(options) if options and rng.random() < 0.25 else tag)
    emotions = list(EMOTION_WORDS[emotion]) + list((synonyms or {}).get(emotion, ()))
    if rng.random() < 0.97:
        count = rng.choice((1, 1, 2, 3, 4))
        chosen = [emotion] if rng.random() < 0.5 else []
        chosen += [w for w in rng.sample(emotions, min(count, len(emotions))) if w not in chosen]
        body += chosen[:4]
    if rng.random() < 0.92:
        body += [style_tag] if rng.random() < 0.6 else rng.sample(STYLE_WORDS[style], rng.choice((1, 1, 2)))
    if rng.random() < 0.5:
        body += rng.sample(CORE_WORDS[:6], rng.randint(1, 3))
    if rng.random() < 0.5:
        rng.shuffle(body)
    if rng.random() < 0.6:
        quality = rng.sample(QUALITY_WORDS, rng.randint(1, 4))
        body = quality + body if rng.random() < 0.5 else body + quality
    if rng.random() < 0.08 and len(body) > 3:  # the same words as a loose sentence
        return "a " + " with ".join([" ".join(body[:3]), " and ".join(body[3:])])
    return ", ".join(dict.fromkeys(body))
