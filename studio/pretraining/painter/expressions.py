"""What a face does for each emotion: numbers for eyes, brows and mouth, and the tags that name them.

This module does not know how a face is drawn, nor which character wears the expression.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expression:
    """One way to show an emotion. Lengths are in head units, angles in degrees, the rest are factors."""

    eyes: str = "open"  # "open", "happy" (closed, arched), "calm" (closed, resting) or "wink" (one closed, arched)
    opening: float = 1.0  # height of the eye opening
    lid: float = 0.0  # > 0: the upper lid falls towards the nose (anger); < 0: towards the temple (grief)
    lower_lid: float = 0.0  # how far the lower lid is pushed up
    iris: float = 1.0  # size of the iris
    pupil: float = 1.0  # size of the pupil
    brow_raise: float = 0.0
    brow_angle: float = 0.0  # > 0: the inner ends fall
    brow_arch: float = 1.0
    mouth: str = "smile"
    blush: float = 0.34  # 0..1; above 0.7 with hatching
    marks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether neither eye is open."""
        return self.eyes in ("happy", "calm")


EXPRESSIONS: dict[str, tuple[Expression, ...]] = {
    "happy": (
        Expression(
            lower_lid=0.14, brow_raise=5, brow_angle=-5, brow_arch=1.5, mouth="open_smile", blush=1,
            tags=("smile", "open mouth", "blush"),
        ),
        Expression(
            "happy", brow_raise=7, brow_angle=-5, brow_arch=1.6, mouth="open_smile", blush=1,
            tags=("smile", "open mouth", "closed eyes", "blush"),
        ),
        Expression(
            lower_lid=0.16, brow_raise=4, brow_angle=-5, brow_arch=1.4, mouth="grin", blush=0.8,
            tags=("grin", "teeth", "blush"),
        ),
        Expression(
            lower_lid=0.12, brow_raise=5, brow_angle=-5, brow_arch=1.5, mouth="smile", blush=1,
            tags=("smile", "closed mouth", "blush"),
        ),
        Expression(
            "wink", lower_lid=0.1, brow_raise=6, brow_angle=-5, brow_arch=1.5, mouth="open_smile", blush=1,
            tags=("smile", "open mouth", "one eye closed", "blush"),
        ),
        Expression(
            "wink", lower_lid=0.1, brow_raise=6, brow_angle=-5, brow_arch=1.5, mouth="tongue", blush=1,
            tags=("smile", "tongue out", "one eye closed", "blush"),
        ),
        Expression(
            lower_lid=0.12, brow_raise=5, brow_angle=-5, brow_arch=1.5, mouth="tongue", blush=0.8,
            tags=("smile", "tongue out", "blush"),
        ),
        Expression(
            "happy", brow_raise=6, brow_angle=-5, brow_arch=1.5, mouth="smile", blush=1,
            tags=("smile", "closed mouth", "closed eyes", "blush"),
        ),
    ),
    "angry": (
        Expression(
            opening=0.92, lid=0.62, iris=0.9, pupil=0.7, brow_raise=-9, brow_angle=24, brow_arch=0.3, mouth="shout",
            marks=("anger",), tags=("open mouth", "teeth", "anger vein", "v-shaped eyebrows"),
        ),
        Expression(
            opening=0.9, lid=0.66, iris=0.92, pupil=0.75, brow_raise=-10, brow_angle=25, brow_arch=0.3, mouth="frown",
            marks=("anger",), tags=("frown", "closed mouth", "anger vein", "v-shaped eyebrows"),
        ),
        Expression(
            opening=0.9, lid=0.64, lower_lid=0.1, iris=0.9, pupil=0.7, brow_raise=-9, brow_angle=26, brow_arch=0.2,
            mouth="clench", tags=("clenched teeth", "v-shaped eyebrows"),
        ),
    ),
    "sad": (
        Expression(
            opening=0.9, lid=-0.55, brow_raise=-1, brow_angle=-22, brow_arch=-0.3, mouth="frown",
            marks=("tears",), tags=("tears", "crying", "frown", "closed mouth"),
        ),
        Expression(
            opening=0.92, lid=-0.55, iris=1.02, brow_angle=-24, brow_arch=-0.3, mouth="sob",
            marks=("stream",), tags=("tears", "crying", "streaming tears", "open mouth"),
        ),
        Expression(
            opening=0.8, lid=-0.55, brow_raise=-2, brow_angle=-22, brow_arch=-0.3, mouth="wavy",
            marks=("teary",), tags=("teardrop", "wavy mouth"),
        ),
    ),
    "surprised": (
        Expression(
            opening=1.26, iris=0.82, pupil=0.6, brow_raise=20, brow_angle=-11, brow_arch=2.0, mouth="big_o", blush=0.3,
            tags=("open mouth", "wide-eyed", "raised eyebrows"),
        ),
        Expression(
            opening=1.24, iris=0.8, pupil=0.62, brow_raise=20, brow_angle=-11, brow_arch=2.0, mouth="small_o",
            blush=0.3, marks=("sweat",), tags=("open mouth", "wide-eyed", "sweatdrop", "raised eyebrows"),
        ),
        Expression(
            opening=1.25, iris=0.82, pupil=0.6, brow_raise=21, brow_angle=-11, brow_arch=1.9, mouth="big_o", blush=0.9,
            marks=("shock",), tags=("open mouth", "wide-eyed", "blush", "surprise lines"),
        ),
    ),
    "calm": (
        Expression(
            opening=0.56, iris=0.98, brow_raise=-3, brow_angle=-5, brow_arch=0.7, mouth="flat", blush=0.35,
            tags=("half-closed eyes", "closed mouth", "expressionless"),
        ),
        Expression(
            "calm", brow_raise=-2, brow_angle=-4, brow_arch=0.9, mouth="soft", blush=0.4,
            tags=("closed eyes", "closed mouth", "light smile"),
        ),
        Expression(
            opening=0.6, iris=0.98, brow_raise=-1, brow_angle=-7, brow_arch=0.9, mouth="soft", blush=0.4,
            tags=("half-closed eyes", "closed mouth", "light smile"),
        ),
        Expression(
            "calm", brow_raise=-2, brow_angle=-4, brow_arch=0.9, mouth="flat", blush=0.35,
            tags=("closed eyes", "closed mouth", "expressionless"),
        ),
    ),
}  # fmt: skip
