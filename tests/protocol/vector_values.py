"""The cases of frames.json that concern the payload: values, keys, and each message's fields."""

from __future__ import annotations

from typing import Any

from .vector_bytes import GIB, LEAST, MEMORY, NONCE, frame, pack
from .vector_frames import Cases, counted

FULL = {  # every optional field, beside the mandatory ones
    "HELLO": {"vm": bytes(16), "ram": 4 * GIB, "lim": {"frame": 1024, "inflight": 1, "hb_ms": 0, "dead_ms": 0,
    "rep_ms": 0}},
    "HELLO_ACK": {"lim": {"frame": 4096, "inflight": 8, "hb_ms": 2000, "dead_ms": 10000, "rep_ms": 1000}},
    "PONG": {"bt": 9},
    "ERROR": {"re": 1, "msg": "no"},
    "REPORT": {
        "mem": {**MEMORY, **dict.fromkeys(("climit", "anon", "file", "shmem", "slabu", "swap_t", "swap_f", "balloon"),
        7)},
        "psi": dict.fromkeys(("some10", "full10", "some_us", "full_us"), 1),
        "vm": dict.fromkeys(
            ("pgfault", "majflt", "refault_a", "refault_f", "pswpin", "pswpout", "dscan", "stall", "oom"), 2
        ),
        "want": GIB, "floor": GIB, "gen": 1, "st": 0, "drop": {"crc": 1, "over": 2, "gap": 3},
    },
    "DEMAND": {"gen": 1},
    "INFLATE": {"floor": GIB, "rate": 1},
    "BALLOON_ACK": {"eff": GIB},
    "SET_POLICY": {"rep_ms": 1000, "psi_some": 500, "psi_full": 200, "floor": 0, "safe": GIB},
}  # fmt: skip


def ping(raw: bytes) -> bytes:
    """A PING payload whose `t` is these bytes."""
    return b"\x81\xa1t" + raw


def extra(raw: bytes) -> bytes:
    """A PING payload with t 0 and an unknown key `zz` of these bytes."""
    return b"\x82\xa1t\x00\xa2zz" + raw


def value_cases(cases: Cases) -> None:
    """Every kind of value, right and wrong."""
    good, bad = cases.message, cases.refused
    for name, raw, number in (
        ("fixint", "7f", 127), ("uint8", "cc80", 128), ("uint16", "cdffff", 65535), ("uint32", "ceffffffff", 2**32 - 1),
        ("uint64", "cf0000000100000000", 2**32), ("2^53-1", "cf001fffffffffffff", 2**53 - 1),
    ):  # fmt: skip
        good(f"int-{name}", "PING", f"{number}, in the shortest form", "Int", ping(bytes.fromhex(raw)), {"t": number})
    for name, raw in (
        ("uint8", "cc05"), ("uint16", "cd0005"), ("uint32", "ce00000005"), ("uint64", "cf0000000000000005"),
        ("int8", "d005"), ("int16", "d10005"), ("int32", "d200000005"), ("int64", "d30000000000000005"),
    ):  # fmt: skip
        good(f"int-long-{name}", "PING", f"5 as {name}, longer than needed", "Int", ping(bytes.fromhex(raw)), {"t": 5},
             "acceptable")  # fmt: skip
    for name, raw in (
        ("2^53", "cf0020000000000000"), ("uint64-max", "cfffffffffffffffff"), ("minus-1", "ff"), ("minus-32", "e0"),
        ("int8-minus", "d0ff"), ("int16-minus", "d1ff00"), ("int32-minus", "d2ffffffff"),
        ("int64-min", "d38000000000000000"),
    ):  # fmt: skip
        bad(f"int-{name}", "PING", "outside 0..2^53-1", "Int", ping(bytes.fromhex(raw)))
    wrong = {
        "true": "c3", "false": "c2", "nil": "c0", "float32": "ca3f800000", "float64": "cb3ff0000000000000",
        "nan": "cb7ff8000000000000", "infinity": "cb7ff0000000000000", "str": "a135", "bin": "c40105", "array": "9105",
        "map": "81a16105", "ext": "d40105", "ext-empty": "c70001", "timestamp": "d6ff00000001", "never-used": "c1",
    }  # fmt: skip
    for name, raw in wrong.items():
        flags = "Int Bool" if name in ("true", "false") else "Int"
        bad(f"int-is-{name}", "PING", f"{name} where a number belongs", flags, ping(bytes.fromhex(raw)))
    for name, raw in (("1", "01"), ("0", "00"), ("nil", "c0"), ("str", "a474727565")):
        _bad_in(cases, f"bool-is-{name}", "BYE" if name == "never" else "ERROR", "Bool", {"code": 2}, "fatal", raw)
    for name in ("nil", "float32", "float64", "nan", "ext", "ext-empty", "timestamp", "never-used"):
        raw = bytes.fromhex(wrong[name])
        bad(
            f"unknown-key-is-{name}",
            "PING",
            f"{name} under a key that nobody knows",
            "NoSuchKind UnknownKey",
            extra(raw),
        )
    for name, raw in (("negative", "ff"), ("2^53", "cf0020000000000000")):
        bad(
            f"unknown-key-is-{name}",
            "PING",
            "a number that no version sends",
            "Int UnknownKey",
            extra(bytes.fromhex(raw)),
        )
    for name, raw in (
        ("bool", "c3"),
        ("int", "05"),
        ("str", "a178"),
        ("bin", "c40100"),
        ("array", "9105"),
        ("map", "80"),
    ):
        good(f"unknown-key-is-{name}", "PING", f"{name} under a key of a later minor version", "UnknownKey",
             extra(bytes.fromhex(raw)), {"t": 0})  # fmt: skip
    text_cases(cases)
    shape_cases(cases)


def _bad_in(cases: Cases, name: str, kind: str, flags: str, others: dict[str, Any], key: str, raw: str) -> None:
    head = pack({**others, key: 0})[:-1]
    cases.refused(name, kind, f"{key} is {raw} in hex", f"{flags} NoErrorToError", head + bytes.fromhex(raw))


def hello_req(impl: bytes) -> bytes:
    """A HELLO_REQ payload whose `impl` is these msgpack bytes."""
    return b"\x82\xa3why\x00\xa4impl" + impl


def text_cases(cases: Cases) -> None:
    """str and bin."""
    good, bad = cases.message, cases.refused
    for size in (0, 31, 32, 64):
        good(f"text-{size}", "HELLO_REQ", f"a name of {size} characters", "Text", {"why": 0, "impl": "n" * size})
    good("text-edges", "HELLO_REQ", "the first and the last printable character", "Text", {"why": 0, "impl": " ~"})
    good("text-str16", "HELLO_REQ", "a short text behind a 16-bit length", "Text", hello_req(b"\xda\x00\x02ab"),
         {"why": 0, "impl": "ab"}, "acceptable")  # fmt: skip
    bad("text-65", "HELLO_REQ", "a name of 65 characters", "Text", {"why": 0, "impl": "n" * 65})
    good("text-128", "ERROR", "the longest text", "Text", {"code": 2, "msg": "m" * 128, "fatal": False})
    bad(
        "text-129", "ERROR", "a text one too long", "Text NoErrorToError", {"code": 2, "msg": "m" * 129, "fatal": False}
    )
    for name, text in (
        ("nul", "a\0b"), ("newline", "a\nb"), ("escape", "a\x1b[2J"), ("delete", "a\x7f"), ("u+202e", "a\u202eb"),
        ("latin", "caf\u00e9"),
    ):  # fmt: skip
        bad(f"text-{name}", "HELLO_REQ", f"{name} in a name", "Text", {"why": 0, "impl": text})
    bad("text-bad-utf-8", "HELLO_REQ", "bytes that are no UTF-8", "Text", hello_req(b"\xa2\xff\xfe"))
    bad("text-surrogate", "HELLO_REQ", "a lone surrogate as UTF-8", "Text", hello_req(b"\xa3\xed\xa0\x80"))
    for name, raw in (("nil", b"\xc0"), ("int", b"\x05"), ("array", b"\x91\xa1a"), ("true", b"\xc3")):
        bad(f"text-is-{name}", "HELLO_REQ", f"{name} where a text belongs", "Text", hello_req(raw))
    either = [{"error": 2, "re": 1}]
    refused_hello = [{"error": 2, "re": None}]
    good("text-as-bin", "HELLO_REQ", "bin for str", "StrForBin", hello_req(b"\xc4\x01a"), {"why": 0, "impl": "a"},
         "acceptable", either)  # fmt: skip
    nonce = bytes(range(0x41, 0x51))
    head = pack({**LEAST["HELLO"], "nonce": nonce})
    good("bin-as-str", "HELLO", "str for bin", "StrForBin", head.replace(b"\xc4\x10" + nonce, b"\xb0" + nonce),
         {**LEAST["HELLO"], "nonce": nonce}, "acceptable", refused_hello)  # fmt: skip
    for size in (0, 15, 17, 64, 65):
        bad(f"bin-{size}", "HELLO", f"a nonce of {size} bytes", "Bin", {**LEAST["HELLO"], "nonce": bytes(size)})
    good("bin-unknown-64", "PING", "the longest bin, under an unknown key", "Bin UnknownKey",
        extra(b"\xc4\x40" + bytes(64)),
         {"t": 0})  # fmt: skip
    bad("bin-unknown-65", "PING", "65 bytes under an unknown key, none of them printable", "Bin UnknownKey",
        extra(b"\xc4\x41" + bytes(65)))  # fmt: skip
    good("bin-unknown-65-printable", "PING", "65 bytes under an unknown key that would do as a text",
         "StrForBin UnknownKey", extra(b"\xc4\x41" + b"a" * 65), {"t": 0}, "acceptable", [{"error": 2,
         "re": 2}])  # fmt: skip
    good("text-unknown-nul", "PING", "a str under an unknown key that would do as a bin", "StrForBin UnknownKey",
         extra(b"\xa2\0\n"), {"t": 0}, "acceptable", [{"error": 2, "re": 2}])  # fmt: skip
    good("text-unknown-128", "PING", "the longest text, under an unknown key", "Text UnknownKey",
         extra(b"\xd9\x80" + b"a" * 128), {"t": 0})  # fmt: skip
    bad("text-unknown-129", "PING", "a longer one", "Text UnknownKey", extra(b"\xd9\x81" + b"a" * 129))
    bad("text-unknown-65-nul", "PING", "neither a text nor short enough for a bin", "Text UnknownKey",
        extra(b"\xd9\x41" + bytes(65)))  # fmt: skip


def shape_cases(cases: Cases) -> None:
    """Keys, maps, arrays, depth, and the payload as a whole."""
    good, bad = cases.message, cases.refused
    for name, key, comment in (
        ("16", b"\xb0" + b"k" * 16, "the longest key"), ("digits", b"\xa4a_09", "a key with _ and digits"),
        ("one", b"\xa1a", "a key of one letter"),
    ):  # fmt: skip
        good(f"key-{name}", "PING", comment, "Key UnknownKey", b"\x82\xa1t\x00" + key + b"\x01", {"t": 0})
    for name, key, comment in (
        ("17", b"\xb1" + b"k" * 17, "a key of 17 characters"), ("empty", b"\xa0", "an empty key"),
        ("int", b"\x01", "a number for a key"), ("nil", b"\xc0", "nil for a key"), ("true", b"\xc3",
        "a bool for a key"),
        ("array", b"\x90", "an array for a key"), ("map", b"\x80", "a map for a key"), ("ext", b"\xd4\x01\x01", "ext"),
        ("upper", b"\xa2Ab", "a capital"), ("digit-first", b"\xa21a", "a digit first"), ("_first", b"\xa2_a",
        "_ first"),
        ("hyphen", b"\xa3a-b", "a hyphen"), ("space", b"\xa3a b", "a space"), ("nul", b"\xa2a\0", "NUL in a key"),
        ("utf-8", b"\xa3a\xc3\xa9", "a letter beyond ASCII"), ("float", b"\xca\0\0\0\0", "a float for a key"),
    ):  # fmt: skip
        bad(f"key-{name}", "PING", comment, "Key", b"\x82\xa1t\x00" + key + b"\x01")
    good("key-bin", "PING", "bin for a key", "StrForBin Key", b"\x82\xa1t\x00\xc4\x01a\x01", {"t": 0}, "acceptable",
         [{"error": 2, "re": 2}])  # fmt: skip
    bad("duplicate-known", "PING", "t twice", "DuplicateKey", b"\x82\xa1t\x00\xa1t\x00")
    bad(
        "duplicate-unknown",
        "PING",
        "an unknown key twice",
        "DuplicateKey UnknownKey",
        b"\x83\xa1t\x00\xa1a\x00\xa1a\x01",
    )
    bad("duplicate-nested", "PING", "a key twice in a map under an unknown key", "DuplicateKey UnknownKey",
        extra(b"\x82\xa1a\x00\xa1a\x00"))  # fmt: skip
    bad("duplicate-str-and-bin", "PING", "the same key as str and as bin", "DuplicateKey StrForBin",
        b"\x82\xa1t\x00\xc4\x01t\x00")  # fmt: skip
    keys = {"t": 0, **{f"k{number}": 0 for number in range(63)}}
    good("map-64", "PING", "64 keys", "Map", keys, {"t": 0})
    bad("map-65", "PING", "65 keys", "Map", {**keys, "more": 0})
    good("map-unordered", "DEMAND", "keys in another order", "Map", dict(reversed(LEAST["DEMAND"].items())))
    good(
        "map-16", "PING", "a small map behind a 16-bit length", "Map", b"\xde\x00\x01\xa1t\x00", {"t": 0}, "acceptable"
    )
    hello = LEAST["HELLO"]
    good("array-64", "HELLO", "64 capabilities", "Array", {**hello, "caps": [f"c{n}" for n in range(64)]})
    bad("array-65", "HELLO", "65 capabilities", "Array", {**hello, "caps": [f"c{n}" for n in range(65)]})
    good("array-0", "HELLO", "no capability", "Array", {**hello, "caps": []})
    good("array-unknown-64", "PING", "64 items", "Array UnknownKey", extra(b"\xdc\x00\x40" + bytes(64)), {"t": 0})
    bad("array-unknown-65", "PING", "65 items", "Array UnknownKey", extra(b"\xdc\x00\x41" + bytes(65)))
    bad("array-of-numbers", "HELLO", "capabilities are names", "Array Text", {**hello, "caps": [1]})
    bad("array-is-text", "HELLO", "one name instead of an array", "Array", {**hello, "caps": "psi"})
    bad("array-huge", "PING", "a declared length of 2^32-1 and no items", "Array", extra(b"\xdd\xff\xff\xff\xff"))
    bad("map-huge", "PING", "a declared length of 2^32-1 and no keys", "Map", b"\xdf\xff\xff\xff\xff")
    bad("text-huge", "PING", "a declared length of 2^32-1 and no text", "Text", extra(b"\xdb\xff\xff\xff\xff"))
    bad("bin-huge", "PING", "a declared length of 2^32-1 and no bytes", "Bin", extra(b"\xc6\xff\xff\xff\xff"))
    good("depth-4-arrays", "PING", "payload, array, array, array", "Depth", extra(b"\x91\x91\x91\x05"), {"t": 0})
    bad("depth-5-arrays", "PING", "one array more", "Depth", extra(b"\x91\x91\x91\x90"))
    good("depth-4-maps", "PING", "payload, map, map, map", "Depth", extra(b"\x81\xa1a" * 2 + b"\x80"), {"t": 0})
    bad("depth-5-maps", "PING", "one map more", "Depth", extra(b"\x81\xa1a" * 3 + b"\x80"))
    bad("depth-1000", "PING", "a thousand arrays", "Depth", extra(b"\x91" * 1000 + b"\x00"))
    report = {"bt": 5, "mem": {**MEMORY, "zz": [[1]]}}
    good("depth-4-in-mem", "REPORT", "payload, mem, array, array", "Depth UnknownKey", report, LEAST["REPORT"])
    bad("depth-5-in-mem", "REPORT", "one array more", "Depth UnknownKey", {"bt": 5, "mem": {**MEMORY, "zz": [[[]]]}})
    for name, raw, comment in (
        ("array", b"\x91\x05", "an array"), ("int", b"\x05", "a number"), ("nil", b"\xc0", "nil"), ("str", b"\xa1t",
        "a text"),
        ("array-of-pairs", b"\x91\x92\xa1t\x00", "an array of pairs"),
    ):  # fmt: skip
        bad(f"payload-{name}", "PING", f"{comment} instead of the map", "Map WholePayload", raw)
    for name, raw, comment in (
        ("trailing-nil", b"\x81\xa1t\x00\xc0", "nil behind the map"), ("trailing-zero", b"\x81\xa1t\x00\0",
        "a zero behind it"),
        ("trailing-map", b"\x81\xa1t\x00\x80", "a second map behind it"), ("cut-value", b"\x81\xa1t", "no value"),
        ("cut-key", b"\x81\xa5t", "a cut key"), ("cut-number", b"\x81\xa1t\xcd\x01", "a cut number"),
        ("cut-map", b"\x82\xa1t\x00", "a map with fewer keys than it says"),
    ):  # fmt: skip
        bad(f"payload-{name}", "PING", comment, "WholePayload", raw)


def message_cases(cases: Cases) -> None:
    """Each message with the least, with all, with too little, with more than we know."""
    for kind, least in LEAST.items():
        low = kind.lower()
        cases.message(f"{low}-least", kind, "the mandatory fields alone", "Absent", least)
        if kind in FULL:
            cases.message(f"{low}-full", kind, "every field", "Absent", {**least, **FULL[kind]})
        cases.message(
            f"{low}-unknown-key", kind, "a key of a later minor version", "UnknownKey", {"zz": [1], **least}, least
        )
        for key in least:
            rest = {name: value for name, value in least.items() if name != key}
            flags = "Mandatory NoErrorToError" if kind == "ERROR" else "Mandatory"
            cases.refused(f"{low}-without-{key}", kind, f"no {key}", flags, rest)
    report = LEAST["REPORT"]
    for key in MEMORY:
        rest = {name: value for name, value in MEMORY.items() if name != key}
        cases.refused(f"report-without-mem-{key}", "REPORT", f"no {key} in mem", "Mandatory", {"bt": 5, "mem": rest})
    for key, record in (("psi", {}), ("vm", {}), ("drop", {}), ("psi", {"some10": 1}), ("vm", {"oom": 0})):
        cases.message(f"report-{key}-{len(record)}", "REPORT", f"a map {key} with {len(record)} keys", "Absent",
                      {**report, key: record})  # fmt: skip
        cases.message(f"report-{key}-{len(record)}-unknown", "REPORT", f"an unknown key in {key}", "UnknownKey",
                      {**report, key: {**record, "zz": 1}}, {**report, key: record})  # fmt: skip
    cases.refused("report-psi-nil", "REPORT", "nil does not say unknown; an absent key does", "Absent NoSuchKind",
                  pack({**report, "psi": 0})[:-1] + b"\xc0")  # fmt: skip
    cases.refused("report-psi-array", "REPORT", "an array where a map belongs", "Map", {**report, "psi": [1]})
    range_cases(cases)
    open_cases(cases)


def range_cases(cases: Cases) -> None:
    """Bounds of fields: the bounds themselves, and one past each."""
    bounds: list[tuple[str, str, list[int], list[int]]] = [
        ("INFLATE", "ttl_ms", [5000, 3600000], [0, 4999, 3600001]),
        ("DEFLATE", "ttl_ms", [5000, 3600000], [4999, 3600001]),
        ("INFLATE", "gen", [1, 2**53 - 1], [0]),
        ("DEFLATE", "gen", [1], [0]),
        ("SET_POLICY", "gen", [1], [0]),
        ("SET_POLICY", "rep_ms", [250, 60000], [249, 60001]),
        ("SET_POLICY", "psi_some", [1, 10000], [0, 10001]),
        ("SET_POLICY", "psi_full", [1, 10000], [0, 10001]),
        ("HELLO_ACK", "page", [1], [0]),
        ("INFLATE", "target", [0, 2**53 - 1], []),
    ]
    for kind, key, inside, outside in bounds:
        for number in inside:
            cases.message(
                f"{kind.lower()}-{key}-{number}", kind, f"{key} {number}", "Range", {**LEAST[kind], key: number}
            )
        for number in outside:
            cases.refused(
                f"{kind.lower()}-{key}-{number}", kind, f"{key} {number}", "Range", {**LEAST[kind], key: number}, 7
            )
    nested: list[tuple[str, str, str, list[int], list[int]]] = [
        ("HELLO", "lim", "frame", [1024], [1023]),
        ("HELLO", "lim", "inflight", [1], [0]),
        ("HELLO_ACK", "lim", "frame", [1024], [0]),
        ("REPORT", "psi", "some10", [0, 10000], [10001]),
        ("REPORT", "psi", "full10", [10000], [10001]),
    ]
    for kind, outer, key, inside, outside in nested:
        for number in inside:
            cases.message(f"{kind.lower()}-{key}-{number}", kind, f"{outer}.{key} {number}", "Range",
                          {**LEAST[kind], outer: {key: number}})  # fmt: skip
        for number in outside:
            cases.refused(f"{kind.lower()}-{key}-{number}", kind, f"{outer}.{key} {number}", "Range",
                          {**LEAST[kind], outer: {key: number}}, 7)  # fmt: skip
    cases.refused("range-of-unknown-format", "INFLATE", "what is no number is ERROR 2, also where bounds are",
        "Range Int",
                  pack({**LEAST["INFLATE"], "ttl_ms": 0})[:-1] + b"\xff")  # fmt: skip


def open_cases(cases: Cases) -> None:
    """Numbers and names that nobody lists, versions, and what the text leaves open."""
    for kind, key in (
        ("HELLO_REQ", "why"), ("BYE", "why"), ("ERROR", "code"), ("DEMAND", "why"), ("DEMAND", "sev"), ("BALLOON_ACK",
        "st"),
        ("BALLOON_ACK", "why"), ("BALLOON_STATUS", "st"), ("POLICY_ACK", "st"), ("HELLO_ACK", "st"),
    ):  # fmt: skip
        cases.message(f"{kind.lower()}-{key}-99", kind, f"{key} 99", "OpenNumber", {**LEAST[kind], key: 99})
    cases.message("event-unheard", "EVENT", "an event that nobody lists", "OpenNumber", {"ev": "x-moon", "bt": 5})
    hello = LEAST["HELLO"]
    cases.message("hello-vendor-cap", "HELLO", "a vendor's capability", "OpenNumber", {**hello, "caps": ["x-acme.zap"]})
    cases.message("hello-minor-9", "HELLO", "a later minor version", "Version", {**hello, "min": 9})
    cases.message("hello-majors-1-9", "HELLO", "majors up to 9", "Version", {**hello, "maj": [1, 9]})
    for low, high in ((2, 3), (0, 0)):
        cases.refused(
            f"hello-majors-{low}-{high}", "HELLO", "no major in common", "Version", {**hello, "maj": [low, high]}, 4
        )
    cases.refused(
        "hello-ack-major-2", "HELLO_ACK", "a major that was not offered", "Version", {**LEAST["HELLO_ACK"], "maj": 2}, 4
    )
    for name, value in (("one", [1]), ("three", [1, 1, 1]), ("int", 1), ("text", ["1", "1"])):
        cases.refused(f"hello-maj-{name}", "HELLO", "maj is a pair of numbers", "Array Int", {**hello, "maj": value})
    for name, kind, comment in (("nonce", NONCE[::-1], "another nonce"), ("re", 7, "another re")):
        data = frame("HELLO_ACK", {**LEAST["HELLO_ACK"], name: kind})
        cases.add(f"hello-ack-other-{name}", f"{comment} than the HELLO's", "Mandatory", "invalid", data,
                  counted("unexpected"), "coordinator", "HELLO_SENT")  # fmt: skip
    errors = [{"error": code, "re": None} for code in (2, 7, 4)]
    cases.add("hello-maj-backwards", "the highest below the lowest", "Unclear", "invalid", frame("HELLO", {**hello,
        "maj": [2, 1]}),
              errors, "agent", "IDLE")  # fmt: skip
    cases.message("hello-empty-cap", "HELLO", "a capability without a letter", "Unclear", {**hello, "caps": [""]},
                  None, "acceptable", [{"error": 2, "re": None}])  # fmt: skip
    cases.message("error-with-re-0", "ERROR", "re 0 names no frame", "OpenNumber", {"re": 0, "code": 2, "fatal": False})
    cases.message("ping-to-coordinator-t", "PONG", "any t", "Int", {"re": 5, "t": 2**53 - 1})
