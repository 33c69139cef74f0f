"""The frames that rollout workers and the learner of one run read."""

from __future__ import annotations

import atexit
from pathlib import Path

from configs.schema import RunConfig
from env.frames import FrameCache
from env.node_cache import NodeCache


def shown_frames(config: RunConfig) -> FrameCache:
    """As the policy is shown them."""
    return FrameCache(blind=config.env.blind, node=_node_cache(config))


def seen_and_shown(config: RunConfig) -> tuple[FrameCache, FrameCache]:
    """(what SAM 2 sees, what the policy is shown): one cache, unless the policy is blind."""
    shown = shown_frames(config)
    return (FrameCache() if config.env.blind else shown), shown


def learner_frames(config: RunConfig) -> tuple[FrameCache, FrameCache]:
    """`seen_and_shown` for the process that outlives all others of a run: it frees the node at its exit."""
    node = _node_cache(config)
    if node is not None:
        atexit.register(node.clear)
    return seen_and_shown(config)


def _node_cache(config: RunConfig) -> NodeCache | None:
    """What this run's processes share on this node, if anything."""
    max_bytes = int(config.grpo.node_cache_gb * 2**30)
    return NodeCache(str(Path(config.run_dir).resolve()), max_bytes) if max_bytes else None
