"""How large a recording is, in the form that was chosen and in those that were not: `python tests/bench/recording.py`.

Guests of a simulated house take and leave memory at random on virtual time; what each turn knew is then made as noisy
as real guests are (available memory, stalls, the times of reading) and written in each form. `--seconds 60` is a short
look.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import trio
import trio.testing

from ballonet_host_coord.delta import difference
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings
from ballonet_host_coord.recording import FRAME, KEY_EVERY_S, LEVEL, Encoder, Entry, Reading
from ballonet_host_coord.simulated.house import House
from ballonet_host_coord.simulated.stores import MemoryRecorder

MIB = 1024
SEED = 7
WORK_MIB = (0, 100, 200, 300, 500, 700)
WORKS_FOR_S = 120.0
LEVELS = {"available_kib": 2000, "file_kib": 200, "committed_kib": 500}
COUNTERS = {"psi_some_us": 3000, "psi_full_us": 2000, "major_faults": 20, "refaults": 5}

Pack = Callable[[Any], bytes]


def play(guests: int, seconds: float) -> list[Entry]:
    """The turns of a house whose memory is short at times."""
    chance = random.Random(SEED)
    recorder = MemoryRecorder()

    async def main() -> None:
        names = [f"guest{number:02}" for number in range(guests)]
        each = tuple(
            GuestSettings(
                name,
                minimum_kib=256 * MIB,
                startup_kib=512 * MIB,
                maximum_kib=1024 * MIB,
                overhead_kib=64 * MIB,
                qmp_path=f"/run/vm/{name}.qmp",
                channel_path=f"/run/vm/{name}.agent",
            )
            for name in names
        )
        host = HostSettings(budget_kib=guests * 720 * MIB, headroom_kib=256 * MIB)
        house = House(Settings(host, each), 1024 * MIB, guests * 1228 * MIB, recorder=recorder)

        async def work(name: str) -> None:
            while True:
                house.machines[name].work(chance.choice(WORK_MIB) * MIB, trio.current_time())
                await trio.sleep(chance.expovariate(1 / WORKS_FOR_S))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.run)
            for name in names:
                nursery.start_soon(work, name)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)
    began_unix_s = 1.7e9
    noise: dict[str, dict[str, Any]] = {}
    return [
        noisy(Entry(kind, now_s, began_unix_s + round(now_s, 3), value), chance, noise)
        for kind, now_s, value in recorder.values
    ]


def noisy(turn: Entry, chance: random.Random, noise: dict[str, dict[str, Any]]) -> Entry:
    """A copy with what a real host and its guests would add; a report keeps its noise for as long as it stands."""
    value = copy.deepcopy(turn.value)
    value["snapshot"]["host"]["facts"]["available_kib"] += chance.randrange(-5000, 5000)
    for guest in value["snapshot"]["guests"]:
        guest["vm"]["read_s"] = turn.now_s - chance.random()
        if (report := guest["report"]) is None:
            continue
        kept = noise.setdefault(guest["settings"]["name"], {"at": None})
        if kept["at"] != report["arrived_s"]:
            kept["at"] = report["arrived_s"]
            for key, most in LEVELS.items():
                kept[key] = chance.randrange(-most, most)
            for key, most in COUNTERS.items():
                kept[key] = kept.get(key, 0) + (chance.randrange(most) if chance.random() < 0.3 else 0)
        for key in (*LEVELS, *COUNTERS):
            if report[key] is not None:
                report[key] += kept[key]
        report["arrived_s"] += 0.00012345
    return Entry(turn.kind, turn.now_s, turn.unix_s, value)


def plain(turn: Entry) -> dict[str, Any]:
    return {"kind": turn.kind, "now_s": turn.now_s, "unix_s": turn.unix_s, "value": turn.value}


def pack_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def written_bytes(turns: list[Entry], pack: Pack, deltas: bool, deflate: str) -> int:
    """How much one form takes. `deflate`: "no", "each" frame for itself, or over a "block"."""
    total, key_s, before = 0, float("-inf"), None
    stream = zlib.compressobj()
    for turn in turns:
        is_key = turn.now_s - key_s >= KEY_EVERY_S
        data = pack(difference(before, plain(turn)) if deltas and not is_key else plain(turn))
        if is_key:
            key_s = turn.now_s
            stream = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 9)
        if deflate == "each":
            data = zlib.compress(data, LEVEL)
        elif deflate == "block":
            data = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        total += len(data) + FRAME.size
        before = plain(turn)
    return total


FORMS: tuple[tuple[str, Pack, bool, str], ...] = (
    ("JSON of everything", pack_json, False, "no"),
    ("JSON, deflate over each minute", pack_json, False, "block"),
    ("msgpack, differences, no deflate", msgpack.packb, True, "no"),
    ("JSON, differences, each frame deflated alone", pack_json, True, "each"),
    ("JSON, differences, deflate over each minute", pack_json, True, "block"),
    ("msgpack, differences, deflate over each minute", msgpack.packb, True, "block"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="How large a recording is, in several forms.")
    parser.add_argument("--guests", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    turns = play(options.guests, options.seconds)
    span_s = turns[-1].now_s - turns[0].now_s
    each_second = list({int(turn.now_s): turn for turn in turns}.values())
    print(f"{options.guests} guests, {span_s:.0f} s, {len(turns)} turns, {len(each_second)} of them a second apart")
    for name, pack, deltas, deflate in FORMS:
        sizes = [written_bytes(some, pack, deltas, deflate) / span_s * 3600 / 1e6 for some in (turns, each_second)]
        print(f"{name:50} {sizes[0]:8.2f} {sizes[1]:8.2f} MB an hour")
    encoder = Encoder(1)
    began_s = time.process_time()
    data = b"".join(encoder.frame(turn) for turn in turns)
    wrote_s = time.process_time()
    assert list(Reading(data)) == turns
    read_s = time.process_time()
    times = [1000 * passed_s / len(turns) for passed_s in (wrote_s - began_s, read_s - wrote_s)]
    rate = len(data) / span_s * 3600 / 1e6
    print(f"as recorded: {rate:.2f} MB an hour; writing {times[0]:.2f}, reading {times[1]:.2f} ms a turn")


if __name__ == "__main__":
    main()
