"""Where actors run: a bundle of resources for each, set aside before any is started."""

from __future__ import annotations

import ray
from ray.exceptions import GetTimeoutError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.load import ConfigError


class PlacementGroup:
    """A place for each of `count` actors, on as many nodes as there are (`SPREAD`) or on as few as will do (`PACK`).

    Ray finds another node for the place of one that is lost, and an autoscaler sees what is wanted.
    """

    def __init__(self, count: int, cpus: float, gpus: float, seconds: float, what: str, strategy: str = "SPREAD"):
        """ConfigError when the cluster has no room for all of them within `seconds`; `what` names them, with the keys
        that ask for so many."""
        bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        self._group = placement_group([bundle] * count, strategy=strategy)
        try:
            ray.get(self._group.ready(), timeout=seconds)
        except GetTimeoutError as error:
            has = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
            self.free()
            raise ConfigError(
                f"{count} {what} with {bundle} each found no room within {seconds:g} s; the nodes have {has}: "
                "set fewer of them, or add nodes"
            ) from error

    def of(self, actor: int) -> PlacementGroupSchedulingStrategy:
        """What to start it with."""
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=actor)

    def free(self) -> None:
        remove_placement_group(self._group)
