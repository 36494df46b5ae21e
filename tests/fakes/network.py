"""The kernel's side of an address on its way to a pod: which pods have one, and which holds stand.

It stands where our modules would talk to netlink and nftables, and says at once when an address is
given, or taken away, in front of clients.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

from crishim.kernel.net.interface import Address, InterfaceState
from crishim.network import address, hold
from crishim.network.address import AddressRecord
from crishim.sandbox import addresses as sandboxes

STATE = InterfaceState(
    name="eth0",
    mac="02:00:00:00:00:01",
    mtu_bytes=1500,
    addresses=(Address(address="10.0.0.77", prefix_bits=24),),
)


@dataclass
class Network:
    """What there is, by path of a network namespace.

    Attributes:
        holds: what stands, and whether it lets anything out.
        given: namespaces that have a preserved address.
        failing: steps that the kernel refuses, by their names.
        released: namespaces whose connections were let go on.
    """

    holds: dict[str, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    released: list[str] = field(default_factory=list)

    def install(self, monkeypatch) -> None:
        network = self

        class Hold:
            def __init__(self, netns: str) -> None:
                self.netns = netns
                self.link = SimpleNamespace(netns=netns)
                self.record = hold.HoldRecord(netns=netns, family="netdev", table="t")

            @classmethod
            async def prepare(cls, netns: str) -> "Hold":
                return cls(netns)

            async def close(self) -> None:
                network.step("close")
                network.holds[self.netns] = "inwards"

            async def seal(self) -> None:
                network.step("seal")
                assert self.netns in network.holds
                network.holds[self.netns] = "both ways"

            async def announce(self, state: InterfaceState) -> None:
                network.step("announce")

            async def release(self, state: InterfaceState, earlier: object = ()) -> int:
                assert network.holds.pop(self.netns) == "inwards"
                network.released.append(self.netns)
                return 0

            async def abandon(self) -> list:
                network.step("abandon")
                assert self.netns not in network.given, "the address shows"
                network.holds.pop(self.netns, None)
                return []

            async def leave(self) -> None:
                """Let the table stand without us."""

        async def check(preserved, others, *, link, ask_network) -> None:
            network.step("check")

        async def plan(link, preserved, *, sandbox, former) -> AddressRecord:
            network.step("plan")
            return AddressRecord(
                sandbox=sandbox, netns=link.netns, own=STATE, preserved=STATE, host_device="b"
            )

        async def apply(record, link) -> None:
            assert record.netns in network.holds, "the address comes behind a hold"
            network.given.add(record.netns)
            network.step("apply")

        async def put_back(record) -> None:
            network.step("put_back")
            hidden = record.netns in network.holds or record.netns in network.released
            assert record.netns not in network.given or hidden
            network.given.discard(record.netns)

        async def end_closed(netns, addresses) -> None:
            network.step("end_closed")

        async def standing(netns) -> list:
            there = netns in network.holds
            return [hold.HoldRecord(netns=netns, family="netdev", table="t")] if there else []

        async def remove(record) -> None:
            if record.netns in network.given:
                network.released.append(record.netns)
            network.holds.pop(record.netns, None)

        async def loosen(addresses) -> None:
            """Need no netlink."""

        for name, stub in (("TargetHold", Hold), ("end_closed", end_closed)):
            monkeypatch.setattr(sandboxes, name, stub)
        monkeypatch.setattr(sandboxes, "standing", standing)
        monkeypatch.setattr(sandboxes, "remove", remove)
        monkeypatch.setattr("crishim.network.neighbours.loosen", loosen)
        for stub in (check, plan, apply, put_back):
            monkeypatch.setattr(address, stub.__name__, stub)

    def step(self, name: str) -> None:
        if name in self.failing:
            raise OSError(f"the kernel refuses {name}")
