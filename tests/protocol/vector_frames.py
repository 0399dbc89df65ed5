"""The cases of frames.json that concern the frame and its header; `vector_values` has those of the payload."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from .vector_bytes import LEAST, TYPES, body, cobs, frame, pack, plain, wire

# The rules of the specification that a case is about, in its words; a case's `flags` name them.
RULES = {
    "Framing": "a frame stands between two zeros; two zeros with nothing between them are nothing",
    "Cobs": "what is not COBS is dropped and counted as crc",
    "Crc": "a frame whose CRC-32 is another is dropped, counted as crc, and never answered",
    "ShortBody": "a body shorter than 20 bytes is dropped and counted as crc",
    "Oversize": "a wire over 4096 or a body over 4064 bytes is dropped and counted as over",
    "Version": "a frame whose first byte is not 1 is answered by ERROR 4 without re",
    "UnknownType": "an unknown type is answered by ERROR 5 when it has REQ, and ignored otherwise",
    "CriticalFlag": "an unknown flag of the high byte: the frame is not acted on and answered by ERROR 6",
    "LowFlag": "unknown flags of the low byte are ignored, and a receiver goes by the type",
    "Direction": "a message that only the other role may send is answered by ERROR 11",
    "NoErrorToError": "an ERROR is never answered by an ERROR, not even a bad one: it is dropped and counted",
    "Int": "an int is 0..2^53-1 in any integer format; there is no float and no negative number",
    "Bool": "a bool never stands for an int, nor an int for it",
    "Text": "a str is printable ASCII, 0x20..0x7e, at most as long as its field says",
    "Bin": "a bin has at most 64 bytes, or as many as its field says",
    "Array": "an array has at most 64 items",
    "Map": "the payload is one map; a map has at most 64 keys",
    "Key": "keys are [a-z][a-z0-9_]{0,15}, as msgpack str",
    "DuplicateKey": "no map has a key twice",
    "NoSuchKind": "there is no nil, no float, no negative number, no extension",
    "Depth": "nesting is at most 4 deep, the payload itself counted",
    "WholePayload": "the payload is one whole map and nothing behind it",
    "StrForBin": "a receiver may take bin for str and str for bin, in keys too; a sender must not make use of it",
    "UnknownKey": "unknown keys are ignored, and their values obey the rules all the same",
    "Mandatory": "a mandatory key that is missing is answered by ERROR 2",
    "Absent": "an absent key means unknown, never 0",
    "Range": "a number outside the bounds of its field is answered by ERROR 7",
    "OpenNumber": "numbers and names that are not listed are taken; they say something else",
    "Unclear": "the specification does not choose between these outcomes",
}
Case = dict[str, Any]
LONG = b"\x01" * 5000


class Cases:
    """Collects cases; ids are unique."""

    def __init__(self) -> None:
        self.all: dict[str, Case] = {}

    def add(
        self, name: str, comment: str, flags: str, result: str, data: bytes, permitted: list[Any],
        to: str = "agent", state: str = "ACTIVE",
    ) -> None:  # fmt: skip
        assert name not in self.all, name
        self.all[name] = {
            "id": name, "comment": comment, "flags": flags.split(), "result": result,
            "reason": "; ".join(RULES[flag] for flag in flags.split()), "to": to, "state": state,
            "wire": data.hex(), "permitted": permitted,
        }  # fmt: skip

    def message(
        self, name: str, kind: str, comment: str, rules: str, payload: Any, understood: Any = None,
        result: str = "valid", or_: list[Any] | None = None, **header: int,
    ) -> None:  # fmt: skip
        """`payload` (a dict or raw bytes) is taken as the message `kind` with the fields `understood`."""
        _, _, to, state = TYPES[kind]
        seq = header.get("seq", 1 if kind in ("HELLO", "HELLO_ACK", "HELLO_REQ") else 2)
        taken = {"message": kind, "seq": seq, "payload": plain(payload if understood is None else understood)}
        self.add(name, comment, rules, result, frame(kind, payload, **header), [taken, *(or_ or [])], to, state)

    def refused(self, name: str, kind: str, comment: str, flags: str, payload: Any, code: int = 2) -> None:
        """`payload` is answered by ERROR `code`."""
        _, _, to, state = TYPES[kind]
        seq = 1 if kind in ("HELLO", "HELLO_ACK", "HELLO_REQ") else 2
        permitted: list[Any] = [{"error": code, "re": seq}]
        if kind == "ERROR":
            permitted = counted("unexpected")
        elif kind == "HELLO":  # what is refused opens no session, and its seq says nothing outside
            permitted = [{"error": code, "re": None}, *(permitted if code == 4 else [])]
        self.add(name, comment, flags, "invalid", frame(kind, payload), permitted, to, state)


def counted(counter: str) -> list[Any]:
    return [{"count": counter}]


def padded(payload_bytes: int) -> bytes:
    """A PING payload of exactly so many bytes: texts under keys that nobody knows, t 0 last."""
    few = payload_bytes < 1000  # a map of 16 keys or more has a head of three bytes
    missing = payload_bytes - (1 if few else 3) - len(pack({"t": 0})[1:])
    count = -(-missing // 130)
    sizes = [missing // count + (number < missing % count) for number in range(count)]
    payload = pack({**{f"k{n:02}": "x" * (size - 6) for n, size in enumerate(sizes)}, "t": 0})
    assert len(payload) == payload_bytes
    return payload


def frame_cases(cases: Cases) -> None:
    """The zeros, COBS, CRC and sizes."""
    ping = body(4, pack({"t": 0}), 1)
    taken = {"message": "PING", "seq": 2, "payload": {"t": 0}}

    def good(name: str, comment: str, data: bytes, flags: str = "Framing", result: str = "valid", *more: Any) -> None:
        cases.add(name, comment, flags, result, data, [taken, *more])

    good("plain", "an ordinary frame", wire(ping))
    good("zeros-before-and-after", "empty frames around a good one", b"\0" * 40 + wire(ping) + b"\0" * 40)
    good("no-leading-zero", "the first zero is missing; a receiver that holds nothing has lost nothing", wire(ping)[1:],
         "Framing", "acceptable", {"ignore": True})  # fmt: skip
    cases.add("only-zeros", "nothing but empty frames", "Framing", "valid", b"\0" * 100, [{"ignore": True}])
    cases.add("empty-input", "no byte at all", "Framing", "valid", b"", [{"ignore": True}])
    cases.add("no-trailing-zero", "a frame that has not ended is no frame yet", "Framing", "invalid", wire(ping)[:-1],
              [{"ignore": True}])  # fmt: skip
    for length in (1, 2, 19):
        cases.add(f"short-body-{length}", f"a body of {length} bytes", "ShortBody", "invalid", wire(ping[:length]),
                  counted("crc"))  # fmt: skip
    crc_of_header = body(4, b"", 1)
    cases.add("short-body-19-good-crc", "19 bytes that end in their own CRC", "ShortBody", "invalid",
              wire(crc_of_header[:15] + struct.pack(">I", zlib.crc32(crc_of_header[:15]))),
              counted("crc"))  # fmt: skip
    cases.add("empty-payload-known", "20 bytes, a whole frame; its payload has no map", "ShortBody WholePayload",
              "invalid", wire(crc_of_header), [{"error": 2, "re": 2}])  # fmt: skip
    cases.add("empty-payload-unknown", "20 bytes of an unknown type, whose payload is nobody's business",
              "ShortBody UnknownType", "acceptable", wire(body(0x7F, b"")), [{"ignore": True}])  # fmt: skip
    cobs_cases(cases, ping)
    cases.add("crc-one-bit", "the lowest bit of the CRC is another", "Crc", "invalid",
              wire(body(4, pack({"t": 0}), 1, crc_xor=1)), counted("crc"))  # fmt: skip
    cases.add("crc-inverted", "a CRC without its final inversion", "Crc", "invalid",
              wire(body(4, pack({"t": 0}), 1, crc_xor=0xFFFFFFFF)), counted("crc"))  # fmt: skip
    cases.add("crc-little-endian", "a CRC with its bytes turned round", "Crc", "invalid",
              wire(ping[:-4] + ping[:-5:-1]), counted("crc"))  # fmt: skip
    cases.add("crc-of-payload-alone", "a CRC that leaves out the header", "Crc", "invalid",
              wire(ping[:-4] + struct.pack(">I", zlib.crc32(ping[16:-4]))), counted("crc"))  # fmt: skip
    cases.add("crc-wrong-and-bad-everything", "damage comes first: no ERROR whatever the header says",
              "Crc Version CriticalFlag", "invalid", wire(body(0x7F, b"\xc1", 0xFF01, version=9, crc_xor=4)),
              counted("crc"))  # fmt: skip
    size_cases(cases)


def cobs_cases(cases: Cases, ping: bytes) -> None:
    """The encoding's own edges."""
    whole = cobs(ping)
    cases.add("cobs-length-past-end", "the last length byte points past the end", "Cobs", "invalid",
              b"\0" + whole[:-1] + b"\0", counted("crc"))  # fmt: skip
    cases.add(
        "cobs-lone-length", "one length byte and nothing behind it", "Cobs", "invalid", b"\0\x05\0", counted("crc")
    )
    cases.add("cobs-one", "the encoding of nothing", "Cobs ShortBody", "invalid", b"\0\x01\0", counted("crc"))
    cases.add("cobs-ff-cut", "a full run's length byte, and 253 bytes", "Cobs", "invalid",
              b"\0\xff" + b"\x01" * 253 + b"\0", counted("crc"))  # fmt: skip
    for run in (253, 254, 255, 508, 509):  # from the last byte of seq to the value of t, which is 0
        data = padded(run - 8)
        assert len(body(4, data, 1).split(b"\0")[-2]) == run or b"\0" in body(4, data, 1)[-4:]
        cases.message(f"cobs-run-{run}", "PING", f"a run of {run} bytes without a zero", "Cobs", data, {"t": 0})
    # A body whose last run is exactly full: a 254-byte tail. The canonical form ends there; a further 01 adds nothing.
    tail = body(4, padded(241)[:-1] + b"\x01", 1)
    assert len(tail.split(b"\0")[-1]) == 254
    encoded = cobs(tail)
    taken = {"message": "PING", "seq": 2, "payload": {"t": 1}}
    cases.add("cobs-full-last-run", "the body ends with a full run of 254", "Cobs", "valid", b"\0" + encoded + b"\0",
              [taken])  # fmt: skip
    cases.add("cobs-full-last-run-01", "the same with an empty run behind it, which some encoders write", "Cobs",
              "acceptable", b"\0" + encoded + b"\x01\0", [taken, {"count": "crc"}])  # fmt: skip
    cases.add("cobs-overlong-length", "a length byte one too great", "Cobs", "invalid",
              b"\0" + bytes([whole[0] + 1]) + whole[1:] + b"\0", counted("crc"))  # fmt: skip


def size_cases(cases: Cases) -> None:
    """The longest body and what is longer."""
    cases.add("body-4064", "the longest body", "Oversize", "valid", wire(body(4, padded(4044), 1)),
              [{"message": "PING", "seq": 2, "payload": {"t": 0}}])  # fmt: skip
    cases.add("body-4065", "a body one byte too long, whole and with its CRC", "Oversize", "invalid",
              wire(body(4, padded(4045), 1)), counted("over"))  # fmt: skip
    for size in (4096, 4097):
        run = body(4, b"\xff" * 4100, 1)
        whole = b"\0" + cobs(run)[: size - 2] + b"\0"
        assert len(whole) == size
        permitted = counted("over") if size > 4096 else [{"count": "crc"}, {"count": "over"}]
        cases.add(f"wire-{size}", f"{size} bytes with both zeros, cut out of something longer", "Oversize", "invalid",
                  whole, permitted)  # fmt: skip
    fits = next(n for n in range(4000, 4100) if len(wire(body(4, b"\xff" * n, 1))) == 4096)
    cases.add("wire-4096-whole", "as long as a wire may be, but the body in it is too long", "Oversize", "invalid",
              wire(body(4, b"\xff" * fits, 1)), counted("over"))  # fmt: skip
    cases.add("endless", "5000 bytes without a zero, then one", "Oversize", "invalid", b"\0" + LONG + b"\0",
              counted("over"))  # fmt: skip
    cases.add("endless-open", "5000 bytes without a zero: given up before it ends", "Oversize", "invalid", b"\0" + LONG,
              counted("over"))  # fmt: skip


def header_cases(cases: Cases) -> None:
    """Version, type, flags, direction."""
    least = pack(LEAST["PING"])
    for version in (0, 2, 255):
        cases.add(f"version-{version}", f"first byte {version}", "Version", "invalid",
                  wire(body(4, least, 1, version=version)), [{"error": 4, "re": None}])  # fmt: skip
    cases.add("version-2-all-else-strange", "of another version nothing but the first byte can be read", "Version",
              "invalid", wire(body(0xEE, b"\xc1", 0xFFFF, 0, 77, version=2)), [{"error": 4, "re": None}])  # fmt: skip
    for code in (0x00, 0x08, 0x26, 0x7F):
        cases.add(f"type-{code:02x}-req", "an unknown type that waits for an answer", "UnknownType", "invalid",
                  wire(body(code, least, 1)), [{"error": 5, "re": 2}])  # fmt: skip
    for code in (0x00, 0x31, 0xC0, 0xFF):
        cases.add(f"type-{code:02x}", "an unknown type: of a later minor version, or of a vendor", "UnknownType",
                  "acceptable", wire(body(code, least)), [{"ignore": True}])  # fmt: skip
    cases.add("type-31-not-msgpack", "an unknown type is ignored whatever its payload is", "UnknownType", "acceptable",
              wire(body(0x31, b"\xc1\xc1")), [{"ignore": True}])  # fmt: skip
    cases.add("type-31-to-coordinator", "the coordinator ignores it, too", "UnknownType", "acceptable",
              wire(body(0x31, least)), [{"ignore": True}], "coordinator")  # fmt: skip
    cases.add("type-c1-rsp", "an unknown type that says it is an answer", "UnknownType", "acceptable",
              wire(body(0xC1, least, 2)), [{"ignore": True}])  # fmt: skip
    for flags in (0x0100, 0x8000, 0xFF00, 0x8001):
        cases.add(f"critical-{flags:04x}", "a flag of the high byte that nobody knows", "CriticalFlag", "invalid",
                  wire(body(4, least, flags)), [{"error": 6, "re": 2}])  # fmt: skip
    cases.add("critical-unknown-type", "a critical flag speaks before the type", "CriticalFlag UnknownType", "invalid",
              wire(body(0x31, least, 0x0100)), [{"error": 6, "re": 2}])  # fmt: skip
    cases.add("critical-bad-payload", "a critical flag speaks before the payload", "CriticalFlag", "invalid",
              wire(body(4, b"\xc0", 0x0101)), [{"error": 6, "re": 2}])  # fmt: skip
    cases.add("critical-error", "a bad ERROR is not answered either", "CriticalFlag NoErrorToError", "invalid",
              wire(body(7, pack(LEAST["ERROR"]), 0x0100)), counted("unexpected"))  # fmt: skip
    for flags in (0x0004, 0x0081, 0x00FD):
        cases.message(f"low-flag-{flags:04x}", "PING", "flags of the low byte that nobody knows", "LowFlag", {"t": 0},
                      result="acceptable", flags=flags)  # fmt: skip
    cases.message("req-missing", "PING", "a request without REQ is one all the same", "LowFlag", {"t": 0},
                  result="acceptable", flags=0)  # fmt: skip
    cases.message("rsp-on-request", "PING", "a request that says it is an answer", "LowFlag", {"t": 0},
                  result="acceptable", flags=3)  # fmt: skip
    cases.message("req-on-bye", "BYE", "REQ where the table has none", "LowFlag", {"why": 0}, result="acceptable",
                  flags=1)  # fmt: skip
    for kind in ("HELLO_ACK", "REPORT", "DEMAND", "BALLOON_ACK", "BALLOON_STATUS", "POLICY_ACK", "EVENT"):
        cases.add(f"direction-{kind.lower()}", "what only an agent says comes to an agent", "Direction", "invalid",
                  frame(kind, seq=2), [{"error": 11, "re": 2}])  # fmt: skip
    for kind in ("HELLO", "INFLATE", "DEFLATE", "SET_POLICY"):
        cases.add(f"direction-{kind.lower()}", "what only a coordinator says comes to a coordinator", "Direction",
                  "invalid", frame(kind, seq=2), [{"error": 11, "re": 2}], "coordinator")  # fmt: skip
