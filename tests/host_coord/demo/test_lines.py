"""Requests meet their answers, whatever else the peer says and in whatever pieces it comes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ballonet_host_coord.demo.lines import LONGEST_LINE, JsonLines, PeerGone


def play(scenario: Callable[[JsonLines, trio.StapledStream], Awaitable[None]]) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.fail_after(5):
            await scenario(JsonLines(ours), theirs)

    trio.run(main, strict_exception_groups=True)


async def request_of(theirs: trio.StapledStream) -> dict:
    return json.loads(await theirs.receive_some())


def test_answers_may_come_in_any_order():
    """Each caller gets the answer with its own id."""

    async def scenario(peer, theirs):
        got: dict[str, str] = {}

        async def ask(word: str) -> None:
            got[word] = (await peer.call({"say": word}))["said"]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "one")
            nursery.start_soon(ask, "two")
            held = b""
            while held.count(b"\n") < 2:
                held += await theirs.receive_some()
            for line in reversed(held.splitlines()):
                request = json.loads(line)
                await theirs.send_all(json.dumps({"id": request["id"], "said": request["say"]}).encode() + b"\n")
        assert got == {"one": "one", "two": "two"}

    play(scenario)


def test_an_answer_in_pieces_after_an_event_and_rubbish_is_found():
    """Events wait for whoever wants them; the tail of an earlier client's line is skipped."""

    async def scenario(peer, theirs):
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                ident = (await request_of(theirs))["id"]
                data = b'est": 1}\n[1]\n{"event": "RESET"}\n{"id": 1, "stale": 1}\n{"id": %d, "ok": 1}\n' % ident
                for byte in data:
                    await theirs.send_all(bytes([byte]))

            nursery.start_soon(answer)
            assert (await peer.call({}))["ok"] == 1
        assert await peer.next_event() == {"event": "RESET"}

    play(scenario)


@pytest.mark.parametrize("last_words", [b"", b'{"id": '])
def test_a_peer_that_goes_away_ends_the_waiting(last_words):
    """A closed connection is an error for whoever waits, not an endless wait."""

    async def scenario(peer, theirs):
        if last_words:
            await theirs.send_all(last_words)
        await theirs.aclose()
        with pytest.raises(PeerGone):
            await peer.call({})
        with pytest.raises(PeerGone):
            await peer.next_event()

    play(scenario)


def test_a_line_without_end_is_not_kept():
    """What is no line protocol does not fill our memory."""

    async def scenario(peer, theirs):
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                while True:
                    await theirs.send_all(b"x" * 65536)

            nursery.start_soon(flood)
            with pytest.raises(PeerGone):
                await peer.next_event()
            assert len(peer._held) <= LONGEST_LINE + 65536 * 2
            nursery.cancel_scope.cancel()

    play(scenario)


def test_a_call_that_was_given_up_leaves_nothing_behind():
    """Its late answer goes to nobody, least of all to the next caller."""

    async def scenario(peer, theirs):
        with trio.move_on_after(0.01):
            await peer.call({})
        late = (await request_of(theirs))["id"]
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                ident = (await request_of(theirs))["id"]
                await theirs.send_all(b'{"id": %d, "was": "late"}\n{"id": %d, "was": "right"}\n' % (late, ident))

            nursery.start_soon(answer)
            assert (await peer.call({}))["was"] == "right"

    play(scenario)
