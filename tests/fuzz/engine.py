"""`engine.py TARGET SECONDS FOLDER...`: one target under atheris, as run.py starts it.

The library is imported here, under the hook that tells libFuzzer which of its lines an input reached. The first folder
takes the inputs that reached new ones, beside the figures and the findings.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["ballonet_protocol._framing", "ballonet_protocol._codec", "ballonet_protocol._connection"]
):
    import fuzz_frames
    import fuzz_sessions
    from run import FINDINGS, HANG_S, LEFT_BEHIND, LONGEST, WARM_UP_SHARE
    from watch import Watch

    from ballonet_protocol._records import Record

TARGETS = {"frames": fuzz_frames.one_input, "sessions": fuzz_sessions.one_input}


def keys_path() -> Path:
    """libFuzzer's dictionary: each key of the wire as msgpack writes it."""
    records = [*Record.__subclasses__(), *Record.__subclasses__()[0].__subclasses__()]
    keys = {field.key for record in records for field in record.FIELDS}
    path = LEFT_BEHIND / "keys.dict"
    path.write_text("".join(f'"\\x{0xA0 | len(key):02x}{key}"\n' for key in sorted(keys)))
    return path


def main(target: str, seconds: float, folders: list[str]) -> None:
    """Never returns: ends the process with 0 when the time is over, or as libFuzzer does when something was found."""
    ends_at_s = time.monotonic() + seconds
    gc.freeze()  # what is there already need not be looked at again and again
    watch = Watch(TARGETS[target], seconds * WARM_UP_SHARE, LEFT_BEHIND / f"{target}.json")

    def one_input(data: bytes) -> None:
        try:
            watch.run(data)
            if time.monotonic() >= ends_at_s:
                watch.look()
                sys.stdout.flush()
                os._exit(0)  # libFuzzer looks at its own clock too rarely, and would count leaving as a crash
        except BaseException:
            watch.write_figures()
            raise

    options = [
        f"-max_len={LONGEST[target]}",
        f"-timeout={HANG_S}",
        f"-dict={keys_path()}",
        f"-artifact_prefix={FINDINGS}/{target}-",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, *folders], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
