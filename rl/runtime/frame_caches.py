"""The frames that rollout workers and the learner of one run read."""

from __future__ import annotations

import atexit
from pathlib import Path

from configs.schema import RunConfig
from env.frames import FrameCache, FrameCaches
from env.node_cache import NodeCache


def policy_frames(config: RunConfig) -> FrameCache:
    """Build the cache of the frames that the policy is shown; with `env.blind` these are grey."""
    return FrameCache(blind=config.env.blind, node=_node_cache(config))


def frame_caches(config: RunConfig) -> FrameCaches:
    """Build the caches of one process. Policy and SAM 2 share one, unless the policy is blind."""
    shown = policy_frames(config)
    return FrameCaches(policy=shown, sam=FrameCache() if config.env.blind else shown)


def learner_frames(config: RunConfig) -> FrameCaches:
    """Build the caches of the learner. It ends after all other processes, so it clears the node's cache at its exit."""
    node = _node_cache(config)
    if node is not None:
        atexit.register(node.clear)
    return frame_caches(config)


def _node_cache(config: RunConfig) -> NodeCache | None:
    """Return the cache that all processes of this run on this node share; None without `grpo.node_cache_gb`."""
    max_bytes = int(config.grpo.node_cache_gb * 2**30)
    return NodeCache(str(Path(config.run_dir).resolve()), max_bytes) if max_bytes else None
