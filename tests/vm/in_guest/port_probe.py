"""Runs in the guest: does to the virtio port what a test asks for, and says what it saw. Standard library only.

    port_probe.py PORT FOLDER      questions come by the pipe FOLDER/ask, answers go by FOLDER/answer

A question is a JSON list of [verb, argument, expected]; the verbs are those of ballonet_protocol.testing.MEASURED. What
changes nothing (a look, a call that failed) is repeated until it shows what is expected, for QEMU takes its time.
"""

import errno
import json
import os
import select
import sys
import time

PATIENCE_S = 10.0
# Long enough for an edge or for room that must not come; only a fault that we miss depends on it, no success.
QUIET_S = 0.3
STEP_S = 0.01

port_path, folder = sys.argv[1:]
fd = -1
epoll = select.epoll()


def attempt(verb, argument):
    """One call: what it showed, and whether it may be made again."""
    global fd
    if verb == "open":
        fd = os.open(port_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        return "open", False
    if verb == "close":
        os.close(fd)
        return None, False
    if verb == "poll":
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        return sum(flags for _, flags in poll.poll(0)), True
    if verb == "read":
        data = os.read(fd, argument)
        return {"bytes": data.decode("latin-1")}, not data
    return os.write(fd, bytes(argument)), False


def look(verb, argument, expected):
    """`attempt`, until it shows what is expected."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            seen, again = attempt(verb, argument)
        except OSError as error:
            seen, again = errno.errorcode[error.errno], True
        if seen == expected or not again or time.monotonic() > end_s:
            return seen
        time.sleep(STEP_S)


def edge(_argument, expected):
    end_s = time.monotonic() + (PATIENCE_S if expected else QUIET_S)
    seen = 0
    while seen != (expected or None) and time.monotonic() < end_s:
        seen = sum(flags for _, flags in epoll.poll(STEP_S)) or seen
    return seen


def reads(awaited_bytes, expected):
    sizes, end_s = [], time.monotonic() + PATIENCE_S
    while True:
        try:
            size = len(os.read(fd, 65536))
        except OSError as error:
            size = errno.errorcode[error.errno]
        if size and isinstance(size, int):
            sizes.append(size)
        elif (sum(sizes) >= awaited_bytes and size == expected[-1]) or time.monotonic() > end_s:
            return [*sizes, size]
        else:
            time.sleep(STEP_S)


def fill(size, expected):
    total, last_s = 0, time.monotonic()
    while time.monotonic() < last_s + (QUIET_S if total >= expected else PATIENCE_S):
        try:
            total += os.write(fd, bytes(size))
            last_s = time.monotonic()
        except BlockingIOError:
            time.sleep(STEP_S)
    return total


SPECIAL = {"edge": edge, "reads": reads, "fill": fill}


def main():
    for name in ("ask", "answer"):
        os.mkfifo(f"{folder}/{name}")
    while True:
        with open(f"{folder}/ask") as questions:
            steps = json.load(questions)
        seen = [
            SPECIAL[verb](argument, expected) if verb in SPECIAL else look(verb, argument, expected)
            for verb, argument, expected in steps
        ]
        with open(f"{folder}/answer", "w") as answers:
            json.dump(seen, answers)


main()
