"""QEMU's command line tells what pins a guest's memory, and how much of it is certainly in huge pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.qemu_arguments import HUGEPAGES, MOST_KIB, Arguments, read_arguments

GIB = 1 << 20
MOUNTS = ["/dev/hugepages", "/mnt/big pages"]
FILE = "memory-backend-file,id=m,size=4G,mem-path="


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], Arguments()),
        (["-device", "virtio-balloon-pci,free-page-reporting=on"], Arguments(True, has_balloon=True)),
        (["-device", '{"driver":"virtio-balloon-pci","free-page-reporting":true}'], Arguments(True, has_balloon=True)),
        (["-device", "virtio-balloon-pci,id=b"], Arguments(False, has_balloon=True)),
        (["-device", "vfio-pci,host=1:0.0"],
         Arguments(None, ("it has a device of the host's (VFIO), which pins its memory",))),
        (["--device", "vfio-pci,host=1:0.0"],
         Arguments(None, ("it has a device of the host's (VFIO), which pins its memory",))),
        *(([option, value], Arguments(None, ("its memory is locked",))) for option, value in (
            ("-overcommit", "mem-lock=on"), ("-overcommit", "mem-lock=on-fault"), ("-realtime", "mlock=on"))),
        (["-overcommit", "mem-lock=off,cpu-pm=on"], Arguments()),
        (["-mem-path", "/dev/hugepages"], Arguments(None, ("it uses hugepages",))),
        (["-object", "memory-backend-memfd,id=m,hugetlb=on"], Arguments(None, ("it uses hugepages",))),
        (["-object", '{"qom-type":"memory-backend-ram","policy":"bind","host-nodes":[0]}'],
         Arguments(None, ("its memory is bound to one NUMA node",))),
        (["-object", "memory-backend-ram,policy=bind,host-nodes=0-1"], Arguments()),
        (["-object", "memory-backend-file,id=m,mem-path=/dev/hugepages/x"], Arguments(None, ("it uses hugepages",))),
        (["-device", "{broken"], Arguments()),
    ],
)  # fmt: skip
def test_qemus_command_line_is_read(options: list[str], said: Arguments) -> None:
    """Both forms of options tell what pins memory and whether free pages are reported."""
    assert read_arguments(["qemu-system-x86_64", *options]) == said


@pytest.mark.parametrize(
    ("options", "kib"),
    [
        (["-m", "4096", "-mem-path", "/dev/hugepages"], 4 * GIB),
        (["-m", "size=4G,slots=2,maxmem=8G", "-mem-path", "/dev/hugepages/x"], 4 * GIB),
        (["-m", "1.5G", "-mem-path", "/dev/hugepages"], 0),
        (["-object", f"{FILE}/mnt/big pages/x", "-machine", "q35,memory-backend=m"], 4 * GIB),
        (["-numa", "node,memdev=m", "-object", f"{FILE}/dev/hugepages"], 4 * GIB),
        (["-object", f"{FILE}/dev/hugepages", "-device", "virtio-mem-pci,memdev=m"], 4 * GIB),
        (["-object", f"{FILE}/dev/hugepages", "-device", "ivshmem-plain,memdev=m"], 0),
        (["-object", "memory-backend-memfd,id=m,hugetlb=on,size=1073741824", "-M", "memory-backend=m"], GIB),
        (["-object", '{"qom-type":"memory-backend-file","id":"m","size":1073741824,"mem-path":"/dev/hugepages/x"}',
          "-device", '{"driver":"pc-dimm","memdev":"m"}'], GIB),
    ],
)  # fmt: skip
def test_what_is_in_huge_pages_is_counted(options: list[str], kib: int) -> None:
    """Guest RAM on a file system of huge pages or in such a memfd; not what guests share, nor a size not understood."""
    said = read_arguments(["kvm", *options], MOUNTS)
    assert (said.pins, said.hugepages_kib) == ((HUGEPAGES,), kib)


@pytest.mark.parametrize("kind", ["mem-path=/dev/hugepages/x", "host-nodes=0,policy=bind"])
def test_what_guests_share_pins_none_of_them(kind: str) -> None:
    """A backend that is not the guest's RAM; where no backend is known to be that, any may be."""
    shared = ["-object", f"memory-backend-file,id=s,size=64M,{kind}", "-device", "ivshmem-plain,memdev=s"]
    own = ["-object", "memory-backend-ram,id=m,size=4G", "-machine", "q35,memory-backend=m"]
    assert read_arguments(["kvm", *own, *shared], MOUNTS) == Arguments()
    assert read_arguments(["kvm", *shared], MOUNTS).pins != ()


def test_a_path_is_no_proof_of_huge_pages() -> None:
    """Where mounts are known they decide; where they are not, the name is a reason to leave alone, not to book less."""
    options = ["-object", f"{FILE}/dev/shm/huge", "-machine", "memory-backend=m"]
    assert read_arguments(options, MOUNTS) == Arguments()
    assert read_arguments(["-object", f"{FILE}/dev/hugepages2/x"], MOUNTS) == Arguments()
    assert read_arguments(options) == Arguments(None, (HUGEPAGES,))
    assert read_arguments(["-m", "4G", "-mem-path", "/mnt/huge"]) == Arguments(None, (HUGEPAGES,), ram_kib=4 * GIB)


@pytest.mark.parametrize(
    ("value", "kib"),
    [("1024", 1 << 20), ("1048576k", 1 << 20), ("size=3G,slots=16,maxmem=9G", 3 << 20), ("2048k,maxmem=4G", 2048),
     ("size=1073741824B", 1 << 20), ("a lot", 128 << 10)],
)  # fmt: skip
def test_a_guests_ram_is_what_its_qemu_was_told(value: str, kib: int) -> None:
    """In QEMU's ways of saying it; without a word, or with one that is none, it is QEMU's own 128 MiB."""
    assert read_arguments(["qemu-system-x86_64", "-m", value, "-S"]).ram_kib == kib
    assert read_arguments(["qemu-system-x86_64", "-S"]).ram_kib == 128 << 10


WORDS = st.sampled_from(["-m", "-object", "-device", "-numa", "memory-backend-memfd,hugetlb=on,id=m,size=", "9" * 30])


@given(st.lists(st.text() | WORDS))
def test_any_command_line_is_read(untrusted: list[str]) -> None:
    """Whoever starts a QEMU writes it; whatever it says, sizes stay within what any machine has."""
    assert 0 <= read_arguments(untrusted, MOUNTS).hugepages_kib <= MOST_KIB
