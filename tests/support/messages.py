"""Every message that people may read, gathered from the code: what a catalogue has to have, and nothing else.

`make messages` writes them into the catalogue of each language, new ones without a translation. Read from the source:
tables that `texts` translates, `_("…")` and its kin, `plural`; titles, help and choices of the specs; sentences of the
rooms behind the pages, which write English and are translated where they are shown: whatever begins with a capital
letter and ends with a full stop, and what is said on the way (`note`).
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polib
from pydantic import BaseModel

from studio.core import i18n
from studio.core.fields import fields

REPOSITORY = Path(__file__).resolve().parents[2]
SHOWN = ("pages", "studio/interfaces/web")  # translated where it is written
# Rooms whose sentences are kept in English and translated where they are shown, without what talks to other programs.
BEHIND = ("core", "engine", "evaluation", "features", "interfaces/api", "interfaces/cli", "jobs", "prompting", "runs",
    "service", "store", "training")  # fmt: skip
APART = (
    "studio/core/i18n.py",
    "studio/core/settings.py",
    "studio/training/export",
    "studio/runs/publish.py",
    "studio/interfaces/cli/bench.py",
    "studio/interfaces/api/metrics.py",
)
MARKS = {"_", "N_", "gettext"}
SAYS = {"note", "on_note"}  # functions that are handed what is said on the way
LOGS = {"debug", "info", "warning", "error", "exception", "critical"}


@dataclass(frozen=True)
class Message:
    """`plural` is "" but for a message about a number of things; `where` is a file."""

    text: str
    plural: str = ""
    context: str = ""
    where: str = ""


def gathered() -> dict[tuple[str, str], Message]:
    """All messages by context and text."""
    found: dict[tuple[str, str], Message] = {}
    for message in (*_shown(), *_of_specs(), *_behind()):
        if re.search(r"[^\W\d_]{2}", re.sub(r"\{[^}]*\}", "", message.text)):
            found.setdefault((message.context, message.text), message)
    return found


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """The files below these folders of the repository, parsed."""
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            name = path.relative_to(REPOSITORY).as_posix()
            if not name.startswith(APART):
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def _shown() -> Iterator[Message]:
    for where, tree in sources("pages", "studio"):
        tables = {}  # by name, and the context that each was given
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _name(node.func) == "texts" and node.args:
                tables[_name(node.args[0])] = template(node.args[1]) if len(node.args) > 1 else ""
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and _name(node.targets[0]) in tables:
                for value in node.value.values:
                    if text := template(value.elts[0] if isinstance(value, ast.Tuple) else value):
                        yield Message(text, context=tables[_name(node.targets[0])], where=where)
            elif isinstance(node, ast.Call):
                yield from _marked(node, where)


def _marked(node: ast.Call, where: str) -> Iterator[Message]:
    called = _name(node.func)
    said = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    if called in MARKS and said:
        yield Message(said[0], where=where)
    elif called == "pgettext" and len(said) == 2:
        yield Message(said[1], context=said[0], where=where)
    elif called == "ngettext" and len(said) == 2:
        yield Message(said[0], said[1], where=where)
    elif called == "plural" and said:
        many = said[1] if len(said) > 1 else f"{said[0]}s"
        yield Message(f"{{count}} {said[0]}", f"{{count}} {many}", where=where)


def specs() -> list[type[BaseModel]]:
    """Everything that people may ask for, and what it is made of."""
    for path in sorted((REPOSITORY / "studio" / "features").glob("*/spec.py")):
        importlib.import_module(f"studio.features.{path.parent.name}.spec")
    base = importlib.import_module("studio.core.specs").Spec
    found, pending = [], [base]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__.startswith("studio."):
            found.append(kind)
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__name__}")


def _of_specs() -> Iterator[Message]:
    for spec in specs():
        where = spec.__module__.replace(".", "/") + ".py"
        for name, field in fields(spec).items():
            info = spec.model_fields[name]
            names = (dict.__getitem__(field.about.names, choice) for choice in field.about.names)
            for text in (info.title, info.description, field.about.unit, field.about.blank, *names):
                if text:
                    yield Message(text, where=where)


def _behind() -> Iterator[Message]:
    for where, tree in sources(*(f"studio/{room}" for room in BEHIND)):
        texts: dict[int, tuple[ast.AST, str]] = {}
        skipped: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skipped.add(id(node.value))  # a docstring
            if isinstance(node, ast.Call):
                if _name(node.func) in LOGS or _name(node.func) in ("Field", "About", "Option", "Argument"):
                    skipped |= {id(inner) for inner in ast.walk(node)}
                named = [one.value for one in node.keywords if one.arg in ("note", "stage")]
                if _name(node.func) in SAYS or named:
                    for part in _choices([*node.args[:1], *named]):
                        if text := template(part):
                            yield Message(text, where=where)
            if isinstance(node, ast.Assign) and _name(node.targets[0]) in ("note", "TEXT"):
                values = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
                for part in _choices(values):
                    if text := template(part):
                        yield Message(text, where=where)
            if isinstance(node, ast.JoinedStr | ast.BinOp):
                skipped |= {id(inner) for inner in ast.walk(node) if inner is not node}
            if text := template(node):
                texts[id(node)] = node, text
        for key, (_node, text) in texts.items():
            if key not in skipped and sentence(text):
                yield Message(text, where=where)


def sentence(text: str) -> bool:
    """Whether a text of the code is a sentence for people."""
    plain = text.strip()
    if "\n" in plain or re.match(r"(SELECT|INSERT|UPDATE|DELETE|CREATE) ", plain):  # told to a model or a database
        return False
    return bool(re.match(r"[A-Z{'(]", plain)) and plain.endswith((".", "!", "?")) and len(plain.split()) > 2


def _choices(values: list[ast.expr]) -> Iterator[ast.expr]:
    for value in values:
        if isinstance(value, ast.IfExp):
            yield from _choices([value.body, value.orelse])
        else:
            yield value


def template(node: ast.AST) -> str:
    """A text as a message: an f-string's values become placeholders. "" for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = template(node.left), template(node.right)
        return left + right if left and right else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return template(node.func.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    text, names = "", {}
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
            continue
        assert isinstance(part, ast.FormattedValue)
        source, name = ast.unparse(part.value), _placeholder(part.value)
        while names.setdefault(name, source) != source:
            name += "_"
        text += "{" + name + "}"
    return text


def _placeholder(value: ast.expr) -> str:
    if isinstance(value, ast.Call):
        return _placeholder(value.args[0]) if value.args else _placeholder(value.func)
    if isinstance(value, ast.Subscript):
        return _placeholder(value.value)
    if isinstance(value, ast.Attribute):
        return value.attr
    return value.id if isinstance(value, ast.Name) else "value"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def write(catalogue: Path) -> None:
    """Bring a catalogue up to date: what is said no more goes, what is new comes in without a translation."""
    known = polib.pofile(str(catalogue))
    before = {(entry.msgctxt or "", entry.msgid): entry for entry in known}
    known.clear()
    for (context, text), message in sorted(gathered().items(), key=lambda item: (item[1].where, item[0])):
        old = before.get((context, text))
        entry = polib.POEntry(msgid=text, msgctxt=context or None, comment=message.where)
        if message.plural:
            entry.msgid_plural = message.plural
            entry.msgstr_plural = old.msgstr_plural if old is not None and old.msgstr_plural else {0: ""}
        else:
            entry.msgstr = old.msgstr if old is not None else ""
        known.append(entry)
    known.save(str(catalogue))


if __name__ == "__main__":
    for found in sorted(i18n.LOCALE.glob("*/messages.po")):
        write(found)
        print(f"{found.parent.name}: {len(polib.pofile(str(found)).untranslated_entries())} without a translation")
