"""Parses XML that anybody may have written."""

from __future__ import annotations

from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

_DEEPEST = 100


def parse_xml(data: bytes) -> Element:
    """The root of a document; entities are refused, which may grow without limit or read files.

    Raises:
        ValueError: it is not XML, declares an entity, or is nested too deeply.
    """
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"has elements more than {_DEEPEST} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*declaration: object) -> NoReturn:
        raise ValueError(f"declares the entity {declaration[0]!r}")

    # expat itself: ElementTree's parser does not let entities be refused.
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    # LookupError: the document names an encoding that there is not.
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"is not XML: {error}") from error
