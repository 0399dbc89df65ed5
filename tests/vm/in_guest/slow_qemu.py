"""QEMUs with a monitor and nothing else, for the coordinator in a guest: slow_qemu.py FOLDER.

`web` needs seconds to answer when it is given all of its memory, and writes that down; `mute` says nothing then.
"""

import sys
from pathlib import Path

import trio
from fake_qemu import MIB, FakeQemu

SLOW_S = 3.0
FOLDER = Path(sys.argv[1])


class SlowQemu(FakeQemu):
    async def _say(self, stream, message):
        if self.heard[-1:] == ["balloon"] and "return" in message and self.actual_bytes == self.ram_bytes:
            if self.path.endswith("mute.qmp"):
                await trio.sleep_forever()
            await trio.sleep(SLOW_S)
            (FOLDER / "deflated").write_text(str(self.actual_bytes // MIB))
        await super()._say(stream, message)


async def main():
    async with trio.open_nursery() as nursery:
        for name in ("web", "mute"):
            qemu = SlowQemu(str(FOLDER / f"{name}.qmp"))
            qemu.actual_bytes = 512 * MIB
            listening = trio.socket.socket(trio.socket.AF_UNIX)
            await listening.bind(qemu.path)
            listening.listen()
            nursery.start_soon(trio.serve_listeners, qemu.serve, [trio.SocketListener(listening)])


trio.run(main)
