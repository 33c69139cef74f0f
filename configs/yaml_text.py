"""Parse YAML from outside strictly and within bounds, so that a small file can neither fill the memory nor mislead.

A key that stands twice, anchors and aliases, merge keys, tags, deep nesting, long lists and long texts raise ValueError
with the line.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_TEXT = 1 << 18  # of a file
MAX_DEPTH = 16  # of sections and lists
MAX_SCALAR = 1 << 16  # characters of one text or number
MAX_ENTRIES = 1000  # of one section or list
_MERGE = "tag:yaml.org,2002:merge"


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. ValueError with the reason where it is not YAML, or not within the bounds."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"holds {len(text)} characters, expected at most {MAX_TEXT}")
    try:
        return yaml.load(text, _Strict)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


class _Strict(yaml.SafeLoader):
    """PyYAML's safe loader, which stops at what a config has no use for."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _fault(event, f"an anchor or alias ({str(event.anchor)[:40]!r}); write its content out")
        if event.tag is not None:
            raise _fault(event, f"the tag {str(event.tag)[:60]!r}; write plain values")
        if self._depth > MAX_DEPTH:
            raise _fault(event, f"nesting of more than {MAX_DEPTH} levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        elif isinstance(node, yaml.CollectionNode) and len(node.value) > MAX_ENTRIES:
            raise _fault(node, f"{len(node.value)} entries, expected at most {MAX_ENTRIES}")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping. ValueError where a key stands twice, of which PyYAML keeps the last."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                raise _fault(key_node, "a merge key (<<); write the keys out")
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise _fault(key_node, f"the key {str(key)[:60]!r}, expected a text")
            if key in seen:
                raise _fault(key_node, f"the key {str(key)[:60]!r} twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _check_scalar(node: yaml.ScalarNode) -> None:
    if len(node.value) > MAX_SCALAR:
        raise _fault(node, f"a text of {len(node.value)} characters, expected at most {MAX_SCALAR}")
    if "\0" in node.value or node.value.encode("utf-8", "replace") != node.value.encode("utf-8", "surrogatepass"):
        raise _fault(node, f"{node.value[:60]!r}, which no file name can hold")


def _fault(at: Any, found: str) -> ValueError:
    """Return the error about an event or a node."""
    return ValueError(f"line {at.start_mark.line + 1} holds {found}")
