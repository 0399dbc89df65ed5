"""A domain's live XML becomes one value, and nothing that a person can write into it becomes anything but an error."""

from __future__ import annotations

from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.libvirt_xml import (
    MOST_CHARACTERS,
    AgentChannel,
    DomainXmlError,
    VirtioMem,
    parse_domain,
)  # fmt: skip

UUID = "1a2e0aac-3a80-47bc-83a0-362faaaf993d"
CHANNEL = """<channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-1-tiny1/org.ballonet.agent.0'/>
      <target type='virtio' name='org.ballonet.agent.0' state='connected'/>
      <alias name='channel0'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/>
    </channel>"""
BALLOON = "<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='2'/></memballoon>"


def live(
    *, name: str = "tiny1", uuid: str = UUID, sizes: str | None = None, top: str = "", devices: str = CHANNEL + BALLOON,
) -> str:
    """The shape that libvirt 9.0 writes for a running domain."""
    if sizes is None:
        sizes = "<memory unit='KiB'>262144</memory><currentMemory unit='KiB'>131072</currentMemory>"
    return f"""<domain type='qemu' id='1'>
  <name>{escape(name)}</name>
  <uuid>{uuid}</uuid>
  {sizes}
  {top}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='virtio-serial' index='0'/>
    {devices}
  </devices>
</domain>
"""


def added(*arguments: str) -> str:
    """What is handed on to QEMU as it is."""
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    words = "".join(f'<q:arg value="{escape(argument)}"/>' for argument in arguments)
    return f"<q:commandline xmlns:q='{namespace}'>{words}</q:commandline>"


def test_a_live_domain_is_read() -> None:
    """Name, sizes, balloon, channel, controller, policy and QEMU's user come out as libvirt wrote them."""
    policy = (
        "<metadata><other:policy xmlns:other='urn:other' minimum='1G'/>"
        "<ballonet:policy xmlns:ballonet='urn:ballonet:domain:1' minimum='64M' weight='8000' ballonet:x='no'/>"
        "</metadata>"
    )
    label = "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>"
    domain = parse_domain(live(top=policy + label))
    assert (domain.name, domain.uuid) == ("tiny1", UUID)
    assert (domain.memory_kib, domain.current_memory_kib, domain.boot_kib) == (262144, 131072, 262144)
    assert (domain.balloon_model, domain.deflate_on_oom, domain.free_page_reporting) == ("virtio", True, True)
    assert domain.statistics_period_s == 2
    path = "/var/lib/libvirt/qemu/channel/target/domain-1-tiny1/org.ballonet.agent.0"
    assert domain.channel == AgentChannel(path, connected=True)
    assert domain.has_virtio_serial
    assert domain.policy == (("minimum", "64M"), ("weight", "8000"))
    assert domain.qemu_user == "+64055"
    assert domain.hands_off == ()


def test_what_is_not_there_is_absent() -> None:
    """A domain without balloon, channel and policy says so in each place."""
    domain = parse_domain(live(devices="<channel type='pty'><target type='virtio' name='other'/></channel>"))
    assert (domain.channel, domain.policy, domain.statistics_period_s) == (None, (), 0)
    assert (domain.balloon_model, domain.deflate_on_oom) == ("none", False)
    assert domain.hands_off == ("it has no balloon device",)


@pytest.mark.parametrize(
    ("size", "kib"),
    [
        ("<memory>1024</memory>", 1024),
        ("<memory unit='b'>1048576</memory>", 1024),
        ("<memory unit='MiB'>256</memory>", 262144),
        ("<memory unit='M'>256</memory>", 262144),
        ("<memory unit='mb'>256</memory>", 250000),
        ("<memory unit='GiB'> 2 </memory>", 2097152),
        ("<memory unit='TB'>1</memory>", 976562500),
    ],
)
def test_units(size: str, kib: int) -> None:
    """Every unit of libvirt's is read, binary and decimal, and no unit is KiB."""
    domain = parse_domain(live(sizes=size))
    assert (domain.memory_kib, domain.current_memory_kib) == (kib, kib)


def test_virtio_mem_is_no_part_of_the_balloons_ram() -> None:
    """A virtio-mem device is told with its block and what was asked of it, and the balloon's RAM is without it."""
    device = """<memory model='virtio-mem'><target>
        <size unit='KiB'>262144</size><node>0</node><block unit='KiB'>2048</block>
        <requested unit='KiB'>131072</requested><current unit='KiB'>65536</current>
      </target><alias name='virtiomem0'/></memory>"""
    domain = parse_domain(live(sizes="<memory unit='MiB'>512</memory>", devices=device + BALLOON))
    assert domain.virtio_mem == (VirtioMem("virtiomem0", 0, 262144, 2048, 131072, 65536),)
    assert domain.boot_kib == 262144


@pytest.mark.parametrize(
    ("top", "device", "reason"),
    [
        ("", "<memballoon model='none'/>", "it has no balloon device"),
        ("<memoryBacking><hugepages/></memoryBacking>", BALLOON, "it uses hugepages"),
        ("", BALLOON + "<memory model='dimm'><source><pagesize>2048</pagesize></source></memory>", "hugepages"),
        (added("-overcommit", "mem-lock=on"), BALLOON, "its memory is locked"),
        (added("-device", "vfio-pci,host=1:0.0"), BALLOON + "<hostdev type='pci'/>", "VFIO"),
        (added("-object", "memory-backend-ram,id=m,policy=bind,host-nodes=0"), BALLOON, "one NUMA node"),
        ("<memoryBacking><locked/></memoryBacking>", BALLOON, "its memory is locked"),
        ("<launchSecurity type='sev'/>", BALLOON, 'its memory is encrypted ("sev") and pinned'),
        ("", BALLOON + "<hostdev mode='subsystem' type='pci'/>", "VFIO"),
        ("", BALLOON + "<hostdev mode='subsystem' type='mdev'/>", "VFIO"),
        ("", BALLOON + "<interface type='hostdev'/>", "VFIO"),
        ("", BALLOON + "<disk type='nvme'/>", "VFIO"),
        ("<numatune><memory mode='strict' nodeset='1'/></numatune>", BALLOON, "one NUMA node"),
        ("<numatune><memory mode='strict' placement='auto'/></numatune>", BALLOON, "one NUMA node"),
        ("<numatune><memnode cellid='0' mode='strict' nodeset='0'/></numatune>", BALLOON, "one NUMA node"),
    ],
)  # fmt: skip
def test_what_must_be_left_alone(top: str, device: str, reason: str) -> None:
    """Hugepages, locked or pinned memory, one NUMA node and no balloon are each named."""
    (said,) = parse_domain(live(top=top, devices=device)).hands_off
    assert reason in said


@pytest.mark.parametrize(
    ("top", "device"),
    [
        ("<memoryBacking><nosharepages/><source type='memfd'/></memoryBacking>", ""),
        ("", "<hostdev mode='subsystem' type='usb'/>"),
        ("", "<interface type='bridge'/>"),
        ("<numatune><memory mode='preferred' nodeset='1'/></numatune>", ""),
        ("<numatune><memory mode='strict' nodeset='0-1'/></numatune>", ""),
    ],
)
def test_what_need_not_be_left_alone(top: str, device: str) -> None:
    """Memory that KSM may not share, USB devices, bridges and loose NUMA settings leave the balloon useful."""
    assert parse_domain(live(top=top, devices=BALLOON + device)).hands_off == ()


MEMFD = added("-object", "memory-backend-memfd,id=m,hugetlb=on,size=1G", "-numa", "node,memdev=m")
CELLS = "<cpu><numa><cell id='0' memory='1' unit='GiB'/><cell id='1' memory='3145728'/></numa></cpu>"
VIRTIO_MEM = """<memory model='virtio-mem'>{}<target><size unit='GiB'>2</size><node>1</node><block unit='MiB'>2</block>
    <requested unit='GiB'>1</requested><current>0</current></target></memory>"""


def pages(*said: str) -> str:
    return f"<memoryBacking><hugepages>{''.join(f'<page {page}/>' for page in said)}</hugepages></memoryBacking>"


@pytest.mark.parametrize(
    ("top", "devices", "huge_gib", "claim_gib"),
    [
        ("", "", 0, 4),
        (pages(), "", 4, 0),
        (pages(), CHANNEL, 4, 0),
        (pages("size='1' unit='GiB'"), "", 4, 0),
        (pages("size='4' unit='KiB'"), "", 0, 4),
        (pages("size='2' unit='M' nodeset='0'"), "", 4, 0),
        (CELLS + pages("size='2' unit='M' nodeset='0'"), "", 1, 3),
        (CELLS + pages("size='2048' nodeset='0-9,^0'"), "", 3, 1),
        (CELLS + pages("size='2048'", "size='4' nodeset='1'"), "", 1, 3),
        (CELLS + pages(), "", 4, 0),
        ("", VIRTIO_MEM.format("<source><pagesize unit='MiB'>2</pagesize></source>"), 2, 2),
        ("", VIRTIO_MEM.format("<source><pagesize unit='KiB'>4</pagesize></source>"), 0, 3),
        (pages("size='2048' nodeset='1'"), VIRTIO_MEM.format(""), 2, 2),
        (pages(), VIRTIO_MEM.format("<source><pagesize unit='KiB'>4</pagesize></source>"), 2, 2),
        (pages(), "<memory model='nvdimm'><target><size unit='GiB'>1</size></target></memory>", 3, 1),
        (MEMFD, "", 1, 3),
    ],
)
def test_how_much_is_in_huge_pages(top: str, devices: str, huge_gib: int, claim_gib: int) -> None:
    """By node and by device as libvirt chooses; what a boot claims of ordinary memory is never more than the rest."""
    domain = parse_domain(live(sizes="<memory unit='GiB'>4</memory>", top=top, devices=devices + BALLOON))
    assert (domain.hugepages_kib, domain.ordinary_claim_kib) == (huge_gib << 20, claim_gib << 20)
    assert bool(domain.hands_off) == bool(huge_gib or "page" in top + devices)


def test_a_channel_without_a_socket_of_qemus_has_no_path() -> None:
    """A channel over a pty, or one where QEMU is the client, is there and has no path to connect to."""
    sources = (
        "<channel type='pty'><source path='/dev/pts/3'/>", "<channel type='unix'><source mode='connect' path='/x'/>",
    )  # fmt: skip
    for source in sources:
        text = live(devices=f"{source}<target type='virtio' name='org.ballonet.agent.0'/></channel>{BALLOON}")
        assert parse_domain(text).channel == AgentChannel("", connected=False)


@pytest.mark.parametrize("name", ["two words", "it's \"quoted\" & <tagged>", "Grüße 雲 \U0001f388", "x" * 200])
def test_strange_names(name: str) -> None:
    """Spaces, quotes, markup, any script and 200 characters come through as they are."""
    assert parse_domain(live(name=name)).name == name


BOMB = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10 if n else 'ha'}'>" for n in range(12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not well-formed"),
        ("<domain>", "not well-formed"),
        ("<domain/>\0", "not well-formed"),
        ("\ud800", "not well-formed"),
        ("<network/>", 'root element is "network"'),
        ("<domain/>", "without a <name>"),
        (live(uuid="7"), '"tiny1": its <uuid> is "7"'),
        (live(sizes=""), '"tiny1": it has no <memory>'),
        (live(sizes="<memory>-5</memory>"), "a whole number and a unit like KiB are allowed"),
        (live(sizes="<memory unit='furlong'>5</memory>"), '"5 furlong"'),
        (live(sizes="<memory>²</memory>"), "a whole number"),
        (live(sizes="<memory unit='EiB'>9</memory>"), "more than any machine has"),
        (live(sizes=f"<memory>{'9' * 100_000}</memory>"), "a whole number"),
        (live(devices="<memory model='virtio-mem'/>"), "has no <target>"),
        (f"<!DOCTYPE domain [{BOMB}]><domain><name>&a11;</name></domain>", "document type"),
        ("<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>", "document type"),
        ("<x>" * 100_000, "more than 200 deep"),
        (" " * (MOST_CHARACTERS + 1), "characters is not read"),
    ],
)
def test_strange_xml_is_one_clear_error(text: str, said: str) -> None:
    """What no domain is gets one line that says what is wrong; no entity is ever expanded."""
    with pytest.raises(DomainXmlError) as caught:
        parse_domain(text)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def check(text: str) -> None:
    try:
        domain = parse_domain(text)
    except DomainXmlError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
    else:
        assert 0 <= domain.boot_kib <= domain.memory_kib


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    """Any text is a domain or a DomainXmlError."""
    check(text)


WORDS = st.sampled_from(
    ["domain", "name", "uuid", "memory", "currentMemory", "devices", "target", "size", "block", "memballoon", "stats",
     "channel", "source", "metadata", "numatune", "hostdev", "seclabel", "label", "launchSecurity", "alias"]
)  # fmt: skip
KEYS = st.sampled_from(["unit", "model", "type", "name", "path", "state", "mode", "nodeset", "period", "xmlns"])
VALUES = st.sampled_from(["virtio-mem", "virtio", "KiB", "unix", "strict", "0", "-1", "9" * 30, UUID, "\U0001f388"])
ELEMENTS = st.recursive(
    VALUES,
    lambda inside: st.builds(
        lambda tag, key, value, children: f"<{tag} {key}='{value}'>{''.join(children)}</{tag}>",
        WORDS, KEYS, VALUES, st.lists(inside, max_size=5),
    ),
    max_leaves=20,
)  # fmt: skip


@given(ELEMENTS, ELEMENTS, st.integers(0, 2000), st.text(max_size=5))
def test_no_change_of_a_domain_raises_anything_else(top: str, devices: str, at: int, patch: str) -> None:
    """Libvirt's own words in the wrong places, and text spliced into good XML, are a domain or a DomainXmlError."""
    text = live(top=top, devices=devices)
    check(text)
    check(text[:at] + patch + text[at + len(patch) :])
