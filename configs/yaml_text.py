"""Parse YAML from outside strictly: no anchors (a few of them expand without end), no key twice, no deep nesting."""

from __future__ import annotations

from typing import Any

import yaml

MAX_TEXT = 1 << 18  # characters
MAX_DEPTH = 16  # of lists and mappings within each other


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which also refuses what two readers would read differently and what has no bound."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise _problem(f"an anchor or alias ({event.anchor[:40]!r}); write its content out", event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _problem(f"nesting of more than {MAX_DEPTH} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise _problem(f"the key {key.value[:60]!r} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. ValueError with the line and the reason where it cannot be read."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"holds {len(text)} characters, expected at most {MAX_TEXT}")
    try:
        return yaml.load(text, _StrictLoader)  # a subclass of the safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not a YAML file that can be read: {' '.join(str(error).split())[:300]}") from error


def _problem(found: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {mark.line + 1} holds {found}")
