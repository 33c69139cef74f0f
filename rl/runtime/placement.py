"""Reserve the resources of a group of actors before any of them is started."""

from __future__ import annotations

import ray
from ray.exceptions import GetTimeoutError
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.load import ConfigError


class PlacementGroup:
    """A bundle of resources for each of several actors.

    Ray moves the bundle of a lost node to another one, and an autoscaler sees the demand.
    """

    def __init__(self, count: int, cpus: float, gpus: float, seconds: float, what: str, strategy: str = "SPREAD"):
        """Reserve the bundles.

        Args:
            count: Number of actors.
            cpus: CPUs of each.
            gpus: GPUs of each; a fraction shares a GPU.
            seconds: Time to wait for the cluster.
            what: The actors and the config keys that set their number, for the error.
            strategy: `SPREAD` over as many nodes as possible, or `PACK` on as few as possible.

        Raises:
            ConfigError: The cluster cannot hold all of them within `seconds`.
        """
        bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        self._group = placement_group([bundle] * count, strategy=strategy)
        try:
            ray.get(self._group.ready(), timeout=seconds)
        except GetTimeoutError as error:
            has = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
            self.free()
            raise ConfigError(
                f"expected a cluster that can run {count} {what} with {bundle} each, but it could not within "
                f"{seconds:g} s; its nodes have {has}: set fewer of them, or add nodes"
            ) from error

    def of(self, actor: int) -> PlacementGroupSchedulingStrategy:
        """Return the scheduling strategy with which this actor, numbered from 0, is started."""
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=actor)

    def free(self) -> None:
        """Return the resources to the cluster."""
        remove_placement_group(self._group)
