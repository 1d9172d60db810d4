"""What the studio knows of a request's field, written once: in its spec, beside its type.

    steps: Annotated[
        int | None,
        Field(title="Steps", description="More steps, finer picture, longer wait.", ge=1, le=50),
        About(infotext=Infotext("Steps"), axis="4, 10, 20", advanced=True),
    ] = None

Type, default, bounds, label (`title`) and help (`description`) are pydantic's, and so stand in the API's documentation
by themselves; `About` holds the rest. `describe(spec, name)` and `fields(spec)` give all of it as a `SpecField`, and
whatever has to do with the field reads that:

- a form: label, help, bounds, step, unit, names of the choices, what an empty field means, whether it is `advanced`;
- a verb: the option's name, how its text becomes a value, whether it is a file (see `interfaces.cli.options`);
- a picture's infotext, written and read (see `store.metadata`), and with it "load this picture's recipe";
- requests of A1111's API and workflows of ComfyUI: `elsewhere`;
- the content key: `in_key`, and the old spelling of a renamed field (`key_data`);
- a grid: `axis`, the values that its form begins with.

Nothing here knows a spec, a widget or an option parser.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from studio.core.i18n import _, texts

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length")


@dataclass(frozen=True)
class Infotext:
    """A field in the `parameters` line of A1111: its key there, and its value as text.

    `write` gives the text of a value, or "" for one that isn't written (None never is). What stands in a text is
    converted and checked by the spec; what it refuses is left out with a note.
    """

    key: str
    write: Callable[[Any], str] = str


@dataclass(frozen=True)
class Elsewhere:
    """What a numeric field is called by other programs.

    `a1111`: its name in a request of A1111's API, and, behind it, among that API's options; `comfyui`: names of inputs
    of ComfyUI's nodes. `read` makes our value of theirs.
    """

    a1111: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    read: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class About:
    """What pydantic has no place for. All of it is optional.

    `unit` stands behind the number ("px", "s"). `blank` says what an empty field means ("random"). `names` are the
    choices as people read them. `step` is that of a number field. `advanced` fields stand behind "More settings".

    `option` is the command line's name where it isn't `--` and the field's own ("--pingpong/--once"; several: the
    first one counts, the others are still read; "": no option), `parse` turns its text into a value, `file` says that
    a path is given: of a "picture", which goes into the store so that the field gets its id, or of a "dataset", of
    which the API takes names only.

    `in_key`: whether it counts in a picture's content key; `key_name`: its name in there, if it was renamed since.
    `axis`: values with which a grid over it may begin; a field without any is no axis.

    `elsewhere` are its names in other programs. `of_model`: its value was chosen for the model, so it goes with that:
    to another request for the same model, and not to one for another model.
    """

    unit: str = ""
    blank: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    step: float | None = None
    advanced: bool = False
    option: str | tuple[str, ...] | None = None
    parse: Callable[[str], Any] | None = None
    file: Literal["picture", "dataset"] | None = None
    infotext: Infotext | None = None
    in_key: bool = True
    key_name: str = ""
    axis: str = ""
    elsewhere: Elsewhere = Elsewhere()
    of_model: bool = False


@dataclass(frozen=True)
class SpecField:
    """One field of a spec with everything that is known of it.

    `type` is its type without None, `optional` says whether None is one of its values. `choices` are those of a
    Literal, or of the items of a tuple of one. `bounds` has what is set of ge, gt, le, lt, multiple_of, min_length and
    max_length.
    """

    name: str
    title: str
    description: str
    type: Any
    optional: bool
    required: bool
    default: Any  # None where it is required
    choices: tuple[Any, ...]
    bounds: Mapping[str, Any]
    about: About

    @property
    def label(self) -> str:
        """Its title in the language that is spoken."""
        return _(self.title)

    @property
    def help(self) -> str:
        """Its description in the language that is spoken."""
        return _(self.description)

    @property
    def whole(self) -> bool:
        """Whether it is an integer."""
        return self.type is int

    @property
    def range(self) -> str:
        """Its values in words: "1 to 50", "above 0, at most 2", "gif, apng or webp"; "" where anything goes."""
        if self.choices:
            *first, last = map(str, self.choices)
            return f"{', '.join(first)} or {last}" if first else last
        limits = self.bounds
        if self.type not in (int, float):
            return ""
        if "ge" in limits and "le" in limits:
            return f"{limits['ge']} to {limits['le']}"
        words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
        return ", ".join(said.format(limits[name]) for name, said in words.items() if name in limits)


def listed(text: str) -> list[str]:
    """`happy,sad,happy` as a list, for `About(parse=...)`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def describe(spec: type[BaseModel], name: str) -> SpecField:
    """Everything about one field. Raises KeyError when the spec has no such field."""
    return fields(spec)[name]


@cache
def fields(spec: type[BaseModel]) -> Mapping[str, SpecField]:
    """All fields of a spec, in their order."""
    return types.MappingProxyType({name: _described(name, info) for name, info in spec.model_fields.items()})


def _described(name: str, info: FieldInfo) -> SpecField:
    about = About()
    bounds: dict[str, Any] = {}
    pending = list(info.metadata)
    plain, optional = _without_none(info.annotation)
    while get_origin(plain) is not None and hasattr(plain, "__metadata__"):  # Annotated inside of a union
        pending += list(plain.__metadata__)
        plain, more = _without_none(get_args(plain)[0])
        optional = optional or more
    while pending:
        item = pending.pop(0)
        if isinstance(item, About):
            about = item
        pending += list(getattr(item, "metadata", ()) or ())
        bounds |= {bound: value for bound in _BOUNDS if (value := getattr(item, bound, None)) is not None}
    return SpecField(
        name=name,
        title=info.title or name.replace("_", " ").capitalize(),
        description=info.description or "",
        type=plain,
        optional=optional,
        required=info.is_required(),
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        choices=_choices(plain),
        bounds=bounds,
        about=replace(about, names=texts(about.names)),
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    rest = [part for part in get_args(annotation) if part is not type(None)]
    return (rest[0] if len(rest) == 1 else annotation), len(rest) < len(get_args(annotation))


def _choices(plain: Any) -> tuple[Any, ...]:
    if get_origin(plain) is Literal:
        return get_args(plain)
    if get_origin(plain) is tuple and get_origin(get_args(plain)[0]) is Literal:
        return get_args(get_args(plain)[0])
    return ()


def bounds(spec: type[BaseModel], name: str) -> dict[str, Any]:
    """`ge`, `gt`, `le`, `lt`, `multiple_of`, `max_length`, `min_length` and `default` of a field.

    Raises KeyError when the spec has no such field.
    """
    field = describe(spec, name)
    return {"default": field.default, **field.bounds}


def key_data(spec: BaseModel) -> dict[str, Any]:
    """What counts of a spec, and of the specs in it, in a content key, as JSON.

    A field with its default is left out, so that a field that is added doesn't change the keys of older pictures; but
    for those in the class's `always_in_key`, which were there before this was so. Fields keep the names that they had.
    """
    always: frozenset[str] = getattr(type(spec), "always_in_key", frozenset())
    counted = [
        info
        for name, info in fields(type(spec)).items()
        if info.about.in_key and (name in always or getattr(spec, name) != info.default)
    ]
    plain = spec.model_dump(mode="json", include={info.name for info in counted})
    data = {}
    for info in counted:
        value = getattr(spec, info.name)
        data[info.about.key_name or info.name] = key_data(value) if isinstance(value, BaseModel) else plain[info.name]
    return data


def of_model(spec: type[BaseModel]) -> tuple[SpecField, ...]:
    """The fields whose value was chosen for the model."""
    return tuple(info for info in fields(spec).values() if info.about.of_model)


def within(info: SpecField, value: float) -> Any:
    """A number brought into the bounds `ge` and `le` of its field, in its type."""
    value = max(value, info.bounds.get("ge", value))
    return info.type(min(value, info.bounds.get("le", value)))


def infotext(spec: type[BaseModel], values: Any) -> dict[str, str]:
    """The A1111 keys and texts of `values`' attributes, of those fields of `spec` that have a key.

    `values` may be another model with fields of the same names: a recipe for its request.
    """
    entries = {}
    for name, info in fields(spec).items():
        value = getattr(values, name, None)
        if info.about.infotext is not None and value is not None:
            entries[info.about.infotext.key] = info.about.infotext.write(value)
    return entries
