"""The time of a step from constants: what a rank computes, what ranks exchange, and what saving takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from experiments.scaling.formulas import Call


@dataclass(frozen=True)
class Link:
    """What an exchange pays for each call and for each byte that passes its narrowest link."""

    seconds_per_call: float
    bytes_per_s: float

    def seconds(self, call: Call, world: int) -> float:
        """In a ring: a sum passes every link twice but for a share, a gather brings what the others have."""
        if world == 1:
            return 0.0
        times = 2 * (world - 1) / world if call.kind == "all_reduce" else world - 1
        return self.seconds_per_call + times * call.bytes / self.bytes_per_s


@dataclass(frozen=True)
class Step:
    """Seconds of the parts of a step."""

    compute: float
    search: float
    load: float
    exchange: float
    save: float

    @property
    def total(self) -> float:
        return self.compute + self.search + self.load + self.exchange + self.save


@dataclass(frozen=True)
class Machine:
    """What of a step depends on the machine; the link of so many ranks is that of their narrowest part."""

    link: Callable[[int], Link]

    def step(
        self,
        world: int,
        calls: Iterable[Call],
        *,
        compute: float,
        search: float = 0.0,
        load: float = 0.0,
        save: float = 0.0,
    ) -> Step:
        link = self.link(world)
        return Step(compute, search, load, sum(link.seconds(call, world) for call in calls), save)


# Assumed and not measured: what no machine at hand can tell.
PER_NODE = 8
NVLINK = Link(20e-6, 200e9)  # NCCL's bus bandwidth within a node
INFINIBAND = Link(40e-6, 20e9)  # one adapter of 200 Gb/s for the eight GPUs of a node, four fifths of it reached
FLOPS, FLOPS_FULL = 100e12, 15e12  # reached under float16 autocast, and in the searches, which are in float32
DEVICE_BYTES_PER_S, HOST_BYTES_PER_S = 1.5e12, 20e9  # memory of the GPU; copies to pinned memory of the host
SAVE_EVERY = 1000  # train.save_every

GPUS = Machine(lambda world: NVLINK if world <= PER_NODE else INFINIBAND)
