"""QEMU's monitor for the tests of the QMP port: as forgetful and as talkative as the real one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import trio

MIB = 1 << 20
BALLOON = "/machine/peripheral/balloon0"
MEMORY = "/machine/peripheral/vmem0"


class FakeQemu:
    """QEMU's side of QMP for one machine: run state, balloon, statistics, migration, events."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.status = "running"
        self.ram_bytes = 1024 * MIB
        self.actual_bytes = 1024 * MIB
        self.hotplug: dict[str, int] | None = None
        """What query-memory-devices says of its virtio-mem device."""
        self.migration: dict[str, Any] = {}
        self.capabilities: set[str] = set()
        self.last_update = 0
        self.statistics: dict[str, int] = {}
        self.properties: dict[tuple[str, str], Any] = {
            (BALLOON, "deflate-on-oom"): True,
            ("/machine/peripheral/port1", "name"): "org.ballonet.agent.0",
            ("/machine/peripheral/port2", "name"): "org.qemu.guest_agent.0",
        }
        self.devices = {
            "/machine/peripheral": [
                {"name": "type", "type": "string"},
                {"name": "balloon0", "type": "child<virtio-balloon-pci>"},
                {"name": "port1", "type": "child<virtserialport>"},
                {"name": "port2", "type": "child<virtserialport>"},
            ],
            "/machine/peripheral-anon": [{"name": "device[0]", "type": "child<virtio-serial-pci>"}],
        }
        self.heard: list[str] = []
        self.told: list[tuple[str, int]] = []
        """Balloon targets and requested sizes in MiB, as they came."""
        self.hangs = False
        self.client: trio.SocketStream | None = None
        self._send_lock = trio.Lock()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.client = stream
        async with stream:
            await self._converse(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        await self._say(stream, {"QMP": {"version": {}, "capabilities": []}})
        buffer = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await stream.receive_some():
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    command = json.loads(line)
                    self.heard.append(command["execute"])
                    if not self.hangs:
                        answer = self._answer(command["execute"], command.get("arguments", {}))
                        await self._say(stream, {**answer, "id": command["id"]})

    def plug_device(self, most_mib: int, block_mib: int = 2) -> None:
        """It was started with a virtio-mem device, which is empty."""
        self.hotplug = {
            "max-size": most_mib * MIB, "block-size": block_mib * MIB, "size": 0, "requested-size": 0
        }  # fmt: skip
        self.devices["/machine/peripheral"].append({"name": "vmem0", "type": "child<virtio-mem-pci>"})

    async def event(self, name: str, seconds: int = 0, **data: Any) -> None:
        assert self.client is not None
        stamp = {"seconds": seconds, "microseconds": 0}
        await self._say(self.client, {"event": name, "timestamp": stamp, "data": data})

    async def die(self) -> None:
        assert self.client is not None
        await self.client.aclose()

    def said(self, name: str) -> int:
        return self.heard.count(name)

    async def _say(self, stream: trio.SocketStream, message: dict[str, Any]) -> None:
        async with self._send_lock:
            await stream.send_all(json.dumps(message).encode() + b"\r\n")

    def _answer(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        where = (arguments.get("path", ""), arguments.get("property", ""))
        match name:
            case "query-status":
                return {"return": {"status": self.status, "running": self.status == "running"}}
            case "query-balloon":
                return {"return": {"actual": self.actual_bytes}}
            case "query-memory-size-summary":
                return {"return": {"base-memory": self.ram_bytes, "plugged-memory": 0}}
            case "query-memory-devices":
                found = [] if self.hotplug is None else [{"type": "virtio-mem", "data": self.hotplug}]
                return {"return": [{"type": "dimm", "data": {}}, *found]}
            case "query-migrate":
                return {"return": self.migration}
            case "qom-list":
                return {"return": self.devices[arguments["path"]]}
            case "qom-get" if where == (BALLOON, "guest-stats"):
                return {"return": {"last-update": self.last_update, "stats": self.statistics}}
            case "qom-get" if where in self.properties:
                return {"return": self.properties[where]}
            case "qom-set" if where == (MEMORY, "requested-size"):
                assert self.hotplug is not None
                self.hotplug["requested-size"] = arguments["value"]
                self.told.append((name, arguments["value"] // MIB))
            case "qom-set":
                self.properties[where] = arguments["value"]
            case "balloon":
                self.actual_bytes = min(arguments["value"], self.ram_bytes)
                self.told.append((name, arguments["value"] // MIB))
            case "cont":
                self.status = "running"
            case "migrate-set-capabilities":
                self.capabilities |= {item["capability"] for item in arguments["capabilities"] if item["state"]}
            case "qmp_capabilities":
                pass
            case _:
                return {"error": {"class": "GenericError", "desc": f"no {name} {arguments}"}}
        return {"return": {}}
