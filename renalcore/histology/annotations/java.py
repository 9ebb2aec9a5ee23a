"""Objects that Java wrote with `ObjectOutputStream`, read as plain values; no class of theirs is ever made.

The grammar is that of the Java Object Serialization Specification, version 6, chapter 6.4. What shapes on slides need
is read: objects with fields, arrays, strings, lists and the bytes between them. Proxies and exceptions are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from renalcore.errors import UnreadableFile

_MAGIC: Final = b"\xac\xed\x00\x05"
_FIRST_HANDLE: Final = 0x7E0000
_MOST_ITEMS: Final = 10_000_000
_DEEPEST: Final = 64
_SIZES: Final = {"B": "b", "C": "H", "D": "d", "F": "f", "I": "i", "J": "q", "S": "h", "Z": "?"}
_SERIALIZABLE, _WRITE_METHOD, _EXTERNALIZABLE, _BLOCK_DATA = 0x02, 0x01, 0x04, 0x08
_END: Final = object()


@dataclass(slots=True)
class JavaObject:
    """One object: its class, its fields by name, and what its class wrote behind them (`bytes` and objects)."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    extra: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Description:
    name: str
    flags: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    parent: _Description | None = None

    def line(self) -> Iterator[_Description]:
        """Itself behind its parents."""
        if self.parent is not None:
            yield from self.parent.line()
        yield self


def is_java(content: bytes) -> bool:
    """Whether bytes are a stream of Java objects."""
    return content.startswith(_MAGIC)


def read_stream(content: bytes) -> list[Any]:
    """Everything in a stream in its order: `bytes` of numbers, `JavaObject`, `str`, `list` of an array, None.

    Raises:
        UnreadableFile: It is no such stream, is cut off, or holds what is refused.
    """
    if not is_java(content):
        raise UnreadableFile("these are no Java objects")
    reader = _Reader(content)
    try:
        return list(reader.all())
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise UnreadableFile(f"these Java objects are damaged or cut off ({type(error).__name__})") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = len(_MAGIC)
        self.handles: list[Any] = []

    def all(self) -> Iterator[Any]:
        while self.at < len(self.content):
            yield self._next(0)

    def _take(self, form: str) -> Any:
        (value,) = struct.unpack_from(f">{form}", self.content, self.at)
        self.at += struct.calcsize(f">{form}")
        return value

    def _bytes(self, length: int) -> bytes:
        if not 0 <= length <= len(self.content) - self.at:
            raise UnreadableFile("these Java objects are cut off")
        self.at += length
        return self.content[self.at - length : self.at]

    def _text(self, form: str = "H") -> str:
        return self._bytes(self._take(form)).decode("utf-8", "surrogatepass")

    def _next(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise UnreadableFile("these Java objects are nested too deeply")
        code = self._take("B")
        if code == 0x70:
            return None
        if code == 0x71:
            return self.handles[self._take("i") - _FIRST_HANDLE]
        if code == 0x72:
            return self._description(depth)
        if code == 0x73:
            return self._object(depth)
        if code == 0x74:
            return self._kept(self._text())
        if code == 0x7C:
            return self._kept(self._text("q"))
        if code == 0x75:
            return self._array(depth)
        if code == 0x76:
            return self._kept(self._next(depth + 1))
        if code == 0x77:
            return self._bytes(self._take("B"))
        if code == 0x7A:
            return self._bytes(self._take("i"))
        if code == 0x78:
            return _END
        if code == 0x7E:
            self._next(depth + 1)
            place = self._reserved()
            self.handles[place] = self._next(depth + 1)
            return self.handles[place]
        raise UnreadableFile(f"these Java objects hold a part of kind {code:#x}, which is not read")

    def _kept(self, value: Any) -> Any:
        self.handles.append(value)
        return value

    def _reserved(self) -> int:
        self.handles.append(None)
        return len(self.handles) - 1

    def _description(self, depth: int) -> _Description:
        described = _Description(self._text())
        self._take("q")  # the version of the class
        self.handles.append(described)
        described.flags = self._take("B")
        for _ in range(self._take("H")):
            form, name = chr(self._take("B")), self._text()
            if form in "[L":
                self._next(depth + 1)  # the name of the field's class
            described.fields.append((name, form))
        self._annotation(depth)
        described.parent = self._next(depth + 1)
        return described

    def _annotation(self, depth: int) -> list[Any]:
        found = []
        while (part := self._next(depth + 1)) is not _END:
            found.append(part)
        return found

    def _object(self, depth: int) -> JavaObject:
        described = self._next(depth + 1)
        made: JavaObject = self._kept(JavaObject(described.name))
        for each in described.line():
            if each.flags & _SERIALIZABLE:
                for name, form in each.fields:
                    made.fields[name] = self._next(depth + 1) if form in "[L" else self._take(_SIZES[form])
                if each.flags & _WRITE_METHOD:
                    made.extra += self._annotation(depth)
            elif each.flags & _EXTERNALIZABLE and each.flags & _BLOCK_DATA:
                made.extra += self._annotation(depth)
            elif each.flags & _EXTERNALIZABLE:
                raise UnreadableFile(f"a {each.name} cannot be read: only its own program knows its form")
        return made

    def _array(self, depth: int) -> list[Any]:
        described = self._next(depth + 1)
        made: list[Any] = self._kept([])
        length = self._take("i")
        if not 0 <= length <= min(_MOST_ITEMS, len(self.content) - self.at):
            raise UnreadableFile("these Java objects are cut off")
        form = described.name[1]
        if form in "[L":
            made += [self._next(depth + 1) for _ in range(length)]
        else:
            one = _SIZES[form]
            made += struct.unpack(f">{length}{one}", self._bytes(length * struct.calcsize(f">{one}")))
        return made
