"""One character through a sequence of emotions, as an animation or as a set of sprites."""

from studio.features.animate.job import animate, sprites
from studio.features.animate.plan import plan_animation, plan_sprites
from studio.features.animate.spec import AnimateSpec, SpritesSpec
from studio.features.feature import Feature, Verb

BASE_WITHOUT = ("emotion", "count", "source", "strength")
ANIMATE = Feature(
    AnimateSpec,
    plan_animation,
    animate,
    Verb("Animate one character through a sequence of emotions.", without=BASE_WITHOUT),
)
SPRITES = Feature(
    SpritesSpec,
    plan_sprites,
    sprites,
    Verb(
        "One character in all five emotions, as a ZIP with the file names that chat front ends look for.",
        without=BASE_WITHOUT,
    ),
)
