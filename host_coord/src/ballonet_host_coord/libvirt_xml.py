"""Reads the live XML of a libvirt domain into one value: sizes, balloon, channel, policy, and why to leave it alone.

The XML is untrusted: whoever may define a domain writes it, and `<metadata>` may hold anything. A document type is
refused, and with it every entity of its own. Whatever is wrong with a text is one `DomainXmlError`.

Source: libvirt's formatdomain.html (libvirt 9.0); live XML carries every size in KiB, a person's need not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, tostring

from .model import Hotplug
from .plain_text import printable
from .ports import PortError
from .qemu_arguments import HUGEPAGES, LOCKED, ONE_NODE, VFIO, read_arguments

AGENT_PORT = "org.ballonet.agent.0"
NAMESPACE = "urn:ballonet:domain:1"
MOST_CHARACTERS = 4 << 20
"""libvirt's own limit for a text on its wire (VIR_NET_MESSAGE_STRING_MAX)."""
MOST_DEPTH = 200
"""Elements within elements; libvirt's schema needs about ten, and Python's walk over a tree recurses."""
MOST_KIB = 1 << 53
"""8 EiB: more than any machine has, and exact in every format that a number passes through."""

# What libvirt takes as a unit (virScaleInteger: letter case does not matter), in bytes.
_UNIT_BYTES = {"": 1024, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtpe", start=1):
    _UNIT_BYTES |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}

ABSENT_BALLOON = "none"
ADDED_ARGUMENTS = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline/{http://libvirt.org/schemas/domain/qemu/1.0}arg"
"""`<qemu:commandline><qemu:arg value='...'/>`: what libvirt hands on to QEMU and says nowhere else."""
ORDINARY_PAGE_KIB = 64
"""The largest page that a kernel may have as its ordinary one; `<page>` may name that, too, and then means nothing."""


class DomainXmlError(PortError):
    """This is not a domain's XML, or lacks what every domain has. The text names the domain where it has a name."""


@dataclass(frozen=True, slots=True)
class AgentChannel:
    """The domain's channel for our agent. `path` is empty where libvirt has not given it one."""

    path: str
    connected: bool
    """Whether the guest's side of the port was open when the XML was written."""


@dataclass(frozen=True, slots=True)
class VirtioMem:
    """A virtio-mem device: the domain may grow by `size_kib`, a block at a time."""

    alias: str
    node: int | None
    size_kib: int
    block_kib: int
    requested_kib: int
    current_kib: int


@dataclass(frozen=True, slots=True)
class DomainXml:
    """What the coordinator wants to know of a domain. Texts are untrusted."""

    name: str
    uuid: str
    """Lower case, with hyphens."""
    memory_kib: int
    """`<memory>`: everything that it may have, virtio-mem's size included."""
    current_memory_kib: int
    virtio_mem: tuple[VirtioMem, ...] = ()
    balloon_model: str = ABSENT_BALLOON
    deflate_on_oom: bool = False
    free_page_reporting: bool = False
    statistics_period_s: int = 0
    """0: the guest is asked for no statistics."""
    channel: AgentChannel | None = None
    has_virtio_serial: bool = False
    """A controller that a channel can be plugged into."""
    policy: tuple[tuple[str, str], ...] = ()
    """Attributes of our metadata element, in the document's order: `minimum`, `weight` and so on."""
    notes: tuple[str, ...] = ()
    """What looks like metadata of ours and is not read."""
    qemu_user: str = ""
    """The user that QEMU runs as, as the security label says it (`+64055` is a number); empty where it says nothing."""
    hands_off: tuple[str, ...] = ()
    """Why this domain's memory is not to be moved; empty where it may be."""
    hugepages_kib: int = 0
    """How much of `memory_kib` is in the host's huge pages."""

    @property
    def boot_kib(self) -> int:
        """What the balloon works on: everything but virtio-mem."""
        return self.memory_kib - sum(device.size_kib for device in self.virtio_mem)

    @property
    def claim_kib(self) -> int:
        """What it can touch before its drivers answer: virtio-mem plugs what is requested by itself."""
        return self.boot_kib + sum(max(device.requested_kib, device.current_kib) for device in self.virtio_mem)

    @property
    def ordinary_claim_kib(self) -> int:
        """Of that: the most that can be in ordinary memory, of which a budget is made."""
        return min(self.claim_kib, max(0, self.memory_kib - self.hugepages_kib))

    @property
    def hotplug(self) -> Hotplug | None:
        """Its virtio-mem devices as if they were one."""
        devices = self.virtio_mem
        if not devices:
            return None
        return Hotplug(
            most_kib=sum(device.size_kib for device in devices),
            block_kib=max(1, *(device.block_kib for device in devices)),
            plugged_kib=sum(device.current_kib for device in devices),
            requested_kib=sum(device.requested_kib for device in devices),
        )


def requesting(untrusted_text: str, requested_kib: int) -> str:
    """The XML of the domain's virtio-mem device, as libvirt takes it to request another size. Raises DomainXmlError."""
    device = _root(untrusted_text).find("devices/memory[@model='virtio-mem']")
    requested = None if device is None else device.find("target/requested")
    if device is None or requested is None:
        raise DomainXmlError("a domain's XML without a virtio-mem device that has a <requested>")
    requested.text = str(requested_kib)
    requested.set("unit", "KiB")
    return tostring(device, encoding="unicode")


def parse_domain(untrusted_text: str) -> DomainXml:
    """The domain. Raises DomainXmlError and nothing else, whatever the text is."""
    root = _root(untrusted_text)
    if root.tag != "domain":
        raise DomainXmlError(f"not a domain's XML: the root element is {_shown(root.tag)}")
    name = root.findtext("name") or ""
    if not name:
        raise DomainXmlError("a domain's XML without a <name>")
    try:
        return _domain(root, name)
    except _Wrong as error:
        raise DomainXmlError(f"domain {_shown(name)}: {error}") from error


class _Wrong(Exception):
    """What is wrong, without the domain's name."""


class _Builder(TreeBuilder):
    """Builds the tree, and refuses what no domain has."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise DomainXmlError(f"XML with elements more than {MOST_DEPTH} deep is not read")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        """Called before anything that it declares is used."""
        raise DomainXmlError("XML with a document type is not read: it could declare entities")


def _root(untrusted_text: str) -> Element:
    if len(untrusted_text) > MOST_CHARACTERS:
        raise DomainXmlError(f"XML of {len(untrusted_text)} characters is not read; {MOST_CHARACTERS} are allowed")
    parser = XMLParser(target=_Builder())
    try:
        parser.feed(untrusted_text)
        root = parser.close()
    except (ParseError, ValueError, LookupError) as error:
        raise DomainXmlError(f"not well-formed XML: {_shown(str(error))}") from error
    if not isinstance(root, Element):
        raise DomainXmlError("XML without an element")
    return root


def _domain(root: Element, name: str) -> DomainXml:
    memory_kib = _size(root.find("memory"), "<memory>")
    current = root.find("currentMemory")
    virtio_mem = tuple(
        _virtio_mem(device) for device in root.iterfind("devices/memory") if device.get("model") == "virtio-mem"
    )
    if sum(device.size_kib for device in virtio_mem) >= memory_kib:
        raise _Wrong(f"its virtio-mem devices are as large as its whole memory, {memory_kib} KiB")
    balloon = root.find("devices/memballoon")
    policy, notes = _policy(root.find("metadata"))
    added = read_arguments([element.get("value", "") for element in root.iterfind(ADDED_ARGUMENTS)])
    hugepages_kib = max(_hugepages_kib(root, memory_kib), added.hugepages_kib)
    return DomainXml(
        name=name,
        uuid=_uuid(root.findtext("uuid")),
        memory_kib=memory_kib,
        current_memory_kib=memory_kib if current is None else _size(current, "<currentMemory>"),
        virtio_mem=virtio_mem,
        balloon_model=ABSENT_BALLOON if balloon is None else balloon.get("model", ABSENT_BALLOON),
        deflate_on_oom=balloon is not None and balloon.get("autodeflate") == "on",
        free_page_reporting=balloon is not None and balloon.get("freePageReporting") == "on",
        statistics_period_s=_period_s(balloon),
        channel=_channel(root),
        has_virtio_serial=any(
            controller.get("type") == "virtio-serial" for controller in root.iterfind("devices/controller")
        ),
        policy=policy,
        notes=tuple(notes),
        qemu_user=_qemu_user(root),
        hands_off=tuple(dict.fromkeys((*_reasons(root), *added.pins))),
        hugepages_kib=min(hugepages_kib, memory_kib),
    )


def _uuid(untrusted_text: str | None) -> str:
    digits = (untrusted_text or "").strip().replace("-", "").lower()
    if len(digits) != 32 or not all(digit in "0123456789abcdef" for digit in digits):
        raise _Wrong(f"its <uuid> is {_shown(untrusted_text or '')}; 32 hexadecimal digits are allowed")
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _size(element: Element | None, what: str, absent_kib: int | None = None) -> int:
    """The element's size in KiB, rounded down."""
    if element is None:
        if absent_kib is None:
            raise _Wrong(f"it has no {what}")
        return absent_kib
    text, unit = (element.text or "").strip(), element.get("unit", "")
    count, unit_bytes = _count(text), _UNIT_BYTES.get(unit.strip().lower())
    if count is None or unit_bytes is None:
        raise _Wrong(f"its {what} is {_shown(f'{text} {unit}')}; a whole number and a unit like KiB are allowed")
    kib = count * unit_bytes // 1024
    if kib > MOST_KIB:
        raise _Wrong(f"its {what} is {_shown(f'{text} {unit}')}, more than any machine has")
    return kib


def _count(text: str) -> int | None:
    """A whole number of at most 20 digits; Python would read a million of them, slowly."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None


def _virtio_mem(device: Element) -> VirtioMem:
    target = device.find("target")
    if target is None:
        raise _Wrong("a virtio-mem device has no <target>")
    alias = device.find("alias")
    return VirtioMem(
        alias="" if alias is None else alias.get("name", ""),
        node=_count((target.findtext("node") or "").strip()),
        size_kib=_size(target.find("size"), "virtio-mem <size>"),
        block_kib=_size(target.find("block"), "virtio-mem <block>"),
        requested_kib=_size(target.find("requested"), "virtio-mem <requested>", absent_kib=0),
        current_kib=_size(target.find("current"), "virtio-mem <current>", absent_kib=0),
    )


def _period_s(balloon: Element | None) -> int:
    stats = None if balloon is None else balloon.find("stats")
    return 0 if stats is None else _count(stats.get("period", "").strip()) or 0


def _channel(root: Element) -> AgentChannel | None:
    for channel in root.iterfind("devices/channel"):
        target, source = channel.find("target"), channel.find("source")
        if target is None or target.get("type") != "virtio" or target.get("name") != AGENT_PORT:
            continue
        # Only a Unix socket that QEMU serves is a path for us; a pty, say, is reached through libvirt alone.
        is_socket = channel.get("type") == "unix" and source is not None and source.get("mode", "bind") == "bind"
        path = source.get("path", "") if is_socket and source is not None else ""
        return AgentChannel(path, target.get("state") == "connected")
    return None


def _policy(metadata: Element | None) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """The policy, and a sentence for each thing near it that somebody may believe to be in force."""
    found: tuple[tuple[str, str], ...] | None = None
    notes: list[str] = []
    for element in metadata if metadata is not None else ():
        namespace, _, tag = element.tag.removeprefix("{").rpartition("}")
        if namespace != NAMESPACE:
            if "ballonet" in namespace:
                notes.append(f"metadata: what has the namespace {_shown(namespace)} is not read; ours is {NAMESPACE}")
        elif tag != "policy":
            notes.append(f"metadata: {_shown(tag)} is not read; our element is <policy>")
        elif found is not None:
            notes.append("metadata: a second <policy> is not read")
        else:
            found = tuple((key, value) for key, value in element.attrib.items() if not key.startswith("{"))
            if len(element) or (element.text or "").strip():
                notes.append("metadata: what stands inside <policy> is not read; values are its attributes")
    return found or (), notes


def _qemu_user(root: Element) -> str:
    """From `<seclabel model='dac'><label>USER:GROUP</label>`."""
    for label in root.iterfind("seclabel"):
        if label.get("model") == "dac":
            return (label.findtext("label") or "").partition(":")[0]
    return ""


# --- why to leave a domain alone ------------------------------------------------------------------------


def _reasons(root: Element) -> Iterable[str]:
    balloon = root.find("devices/memballoon")
    if balloon is None or balloon.get("model", ABSENT_BALLOON) == ABSENT_BALLOON:
        yield "it has no balloon device"
    if root.find("memoryBacking/hugepages") is not None or root.find("devices/memory/source/pagesize") is not None:
        yield HUGEPAGES
    if root.find("memoryBacking/locked") is not None:
        yield LOCKED
    security = root.find("launchSecurity")
    if security is not None:
        yield f"its memory is encrypted ({_shown(security.get('type', ''))}) and pinned"
    if any(_pins(device) for device in root.iterfind("devices/*")):
        yield VFIO
    if len(root.findall("devices/memory[@model='virtio-mem']")) > 1:
        yield "it has several virtio-mem devices; one is served"
    numa = [*root.iterfind("numatune/memory"), *root.iterfind("numatune/memnode")]
    if any(_binds_to_one_node(element) for element in numa):
        yield ONE_NODE


def _hugepages_kib(root: Element, memory_kib: int) -> int:
    """How much of its memory is in huge pages: of the guest's NUMA nodes and of each memory device, as libvirt chooses
    (the device's own page size, else the `<page>` of its node, else the one of no node). Too little where it is not
    certain."""
    found_kib, boot_kib = 0, memory_kib
    for device in root.iterfind("devices/memory"):
        size_kib = _size(device.find("target/size"), "memory device's <size>", absent_kib=0)
        boot_kib -= size_kib
        own = device.find("source/pagesize")
        node = _count((device.findtext("target/node") or "0").strip())
        page_kib = _size(own, "<pagesize>") if own is not None else _page_kib(root, node)
        if page_kib > ORDINARY_PAGE_KIB and device.get("model") in ("dimm", "virtio-mem"):
            found_kib += size_kib
    cells = root.findall("cpu/numa/cell")
    for cell in cells:
        if _page_kib(root, _count(cell.get("id", ""))) > ORDINARY_PAGE_KIB:
            memory = Element("memory", {"unit": cell.get("unit", "")})
            memory.text = cell.get("memory", "0")
            found_kib += _size(memory, "NUMA cell's memory")
    if not cells and _page_kib(root, 0) > ORDINARY_PAGE_KIB:
        found_kib += max(0, boot_kib)
    return found_kib


def _page_kib(root: Element, node: int | None) -> int:
    """Which pages a node of the guest's is made of; 0: ordinary ones."""
    hugepages = root.find("memoryBacking/hugepages")
    if hugepages is None:
        return 0
    pages = hugepages.findall("page")
    if not pages:
        return MOST_KIB  # the host's default for huge pages, whatever that is
    whole_kib = 0
    for page in pages:
        size = Element("size", {"unit": page.get("unit", "")})
        size.text = page.get("size", "0")
        size_kib, nodes = _size(size, "<page> size"), page.get("nodeset")
        if nodes is None:
            whole_kib = size_kib
        elif node is not None and _has_node(nodes, node):
            return size_kib
    return whole_kib


def _has_node(untrusted_nodes: str, node: int) -> bool:
    """Whether a node is in a set like `0-3,^2`."""
    has = False
    for part in untrusted_nodes.replace(" ", "").split(","):
        first, dash, last = part.removeprefix("^").partition("-")
        least, most = _count(first), _count(last if dash else first)
        if least is not None and most is not None and least <= node <= most:
            has = not part.startswith("^")
    return has


def _pins(device: Element) -> bool:
    """Whether QEMU maps all guest memory for this device: a balloon's pages would not come back to the host."""
    kind = device.get("type", "")
    match device.tag:
        case "hostdev":
            return kind in ("pci", "mdev", "mdev_ccw", "mdev_ap")
        case "interface":
            return kind in ("hostdev", "vdpa")
        case "disk":
            return kind in ("nvme", "vhostvdpa")
    return False


def _binds_to_one_node(element: Element) -> bool:
    if element.get("mode", "strict") not in ("strict", "restrictive"):
        return False
    # With placement='auto' numad has chosen, and the XML does not say how many.
    return element.get("placement") == "auto" or (element.get("nodeset") or "").strip().isdecimal()


def _shown(untrusted_text: str) -> str:
    """Quoted, printable, and short enough for a line."""
    text = printable(untrusted_text.strip())
    return f'"{text}"' if len(text) <= 80 else f'"{text[:77]}..."'
