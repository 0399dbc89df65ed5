"""`python3 -m ballonet_guest_agent [--port PORT] [--config FILE]`: the door of the daemon (daemon.py).

`-m` loads runpy with importlib.util, contextlib and warnings (0.4 MB), and Python's start loads `site` and whatever
its .pth files name (0.1 MB and up). Nobody needs them afterwards and nothing gives them back. So the interpreter starts
once more, in the same process, without `site`, with the search path it has now and straight into the daemon: 20 ms once
for a tenth of the agent's private memory for as long as the guest runs.
"""

from __future__ import annotations

import os
import sys

#: What the daemon imports; an editable installation may have them where no search path leads.
_PACKAGES = ("ballonet_guest_agent", "ballonet_protocol", "msgpack")


def interpreter_options(words: list[str]) -> list[str] | None:
    """The interpreter's own options in front of `-m`, so that the second start has them too. None: not started so."""
    if "-m" not in words:
        return None
    return words[1 : words.index("-m")]


def search_path() -> list[str]:
    """`sys.path`, and the folders of our packages where they were found in another way."""
    from importlib.util import find_spec  # `-m` has loaded it already

    path = list(sys.path)
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            folder = os.path.dirname(os.path.dirname(spec.origin))
            if folder not in path:
                path.append(folder)
    return path


def main() -> int:
    """Start over where that can be done, else serve from here."""
    # Python 3.9 does not keep the words that it was started with.
    options = interpreter_options(getattr(sys, "orig_argv", []))
    if options is not None and sys.executable:
        code = (
            f"import sys; sys.path[:] = {search_path()!r}; "
            "from ballonet_guest_agent.diet import lean_msgpack; lean_msgpack(); "
            "from ballonet_guest_agent.daemon import main; sys.exit(main(sys.argv[1:]))"
        )
        os.execv(sys.executable, [sys.executable, *options, "-S", "-c", code, *sys.argv[1:]])
    from ballonet_guest_agent.daemon import main as serve

    return serve(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
