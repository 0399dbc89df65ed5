# ballonet's development commands. `make venv` sets up .venv and nothing else; every other target needs it.
PYTHON  ?= /usr/bin/python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
MEMBERS := protocol guest_agent host_coord
JSON    ?=
SECONDS ?= 60

# What real guests need on a Debian host: the emulator, and what builds the guest's image.
VM_PACKAGES := qemu-system-x86 mmdebstrap e2fsprogs tar util-linux
# What builds the example agent in C.
C_PACKAGES := gcc libc6-dev
# A libvirtd for the tests of the libvirt port, its Python module, and what their tiny guests are made of.
LIBVIRT_PACKAGES := libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt busybox-static cpio
# What builds and judges the Debian packages: packaging/debian/control's Build-Depends, and the tools of its tests.
DEB_PACKAGES := dpkg-dev debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools python3-click \
    python3-msgpack python3-psutil python3-trio lintian systemd man-db groff bash-completion zsh fish

.PHONY: venv venv-packages vm-packages deb-packages deb dist demo test test-fast matrix bench bench-host bench-policy fuzz image clean

# $(call need,PACKAGES,WHAT FOR): install what dpkg does not list as installed when we are root, else say the line
# that does it and go on; what cannot run for lack of a package says so itself.
define need
	@missing=; \
	for package in $(1); do \
	    dpkg-query --show --showformat='$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed \
	        || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "make: installing$$missing ($(2))"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq -y --no-install-recommends $$missing </dev/null \
	        || echo "make: apt-get could not; going on without$$missing"; \
	else \
	    echo "make: missing for $(2); as root:"; \
	    echo "    apt-get update && apt-get install -y --no-install-recommends$$missing"; \
	fi
endef

venv: $(STAMP)

$(STAMP): requirements-dev.txt $(MEMBERS:%=%/pyproject.toml) | venv-packages
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt $(MEMBERS:%=-e ./%)
	touch $@

# A fresh Debian's python3 comes without ensurepip, and a venv made without it has no pip.
venv-packages:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory install-venv-packages

.PHONY: install-venv-packages
install-venv-packages:
	$(call need,python3-venv,the development environment)

vm-packages:
	$(call need,$(VM_PACKAGES),real guests)

.PHONY: c-packages
c-packages:
	$(call need,$(C_PACKAGES),the example agent in C)

.PHONY: libvirt-packages
libvirt-packages:
	$(call need,$(LIBVIRT_PACKAGES),the tests of the libvirt port)

deb-packages:
	$(call need,$(DEB_PACKAGES),the Debian packages)

# The three Debian packages, into dist/deb; nothing is done when they are current.
deb: deb-packages
	packaging/build-deb

# Source distributions and wheels of all three, into dist.
dist: venv
	packaging/build-dist

# Everything: linters, types, contracts, unit and property tests, the simulated end to end, real guests.
test: venv vm-packages c-packages deb-packages libvirt-packages
	$(BIN)/python -m pytest

# The same without virtual machines.
test-fast: venv c-packages
	$(BIN)/python -m pytest -m "not vm and not slow"

# The agent's and the protocol's tests on each Python from 3.9 to 3.13 that is here, with the libraries that distributions
# carry; tests/matrix/README.md. `make test` has it, too. JSON=FILE writes what was found for programs.
matrix: venv
	$(BIN)/python -m tests.matrix.run $(if $(JSON),--json $(JSON))

# Look for input that the wire's library does not bear, for SECONDS; tests/fuzz/README.md. Atheris, which carries
# libFuzzer, is installed here and by nothing else.
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS)

$(VENV)/.installed-fuzz: requirements-fuzz.txt $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-fuzz.txt
	touch $@

# All that building and testing leave in the tree; the venv stays, and the guest image in ~/.cache/ballonet.
clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .fuzz
	rm -rf $(MEMBERS:%=%/build) $(MEMBERS:%=%/dist) dist
	find $(MEMBERS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Build the guest image of the demo and the real-guest tests now. It is cached, and both build it when they need it.
image: venv vm-packages
	$(BIN)/python -m ballonet_host_coord.demo.image

# The main job before your eyes: two real guests, one budget. JSON=FILE writes the verdict for programs.
demo: venv vm-packages
	$(BIN)/ballonet demo $(if $(JSON),--json $(JSON))

# Measure against a baseline in the same run. JSON=FILE writes the figures; nothing is asserted.
bench: venv vm-packages
	$(BIN)/python tests/bench/run.py $(if $(JSON),--json $(JSON))

# What the coordinator costs its host: hundreds of agents in front of recorded hypervisors, and real guests behind a
# libvirtd. About seven minutes. JSON=FILE writes the figures; nothing is asserted.
bench-host: venv vm-packages libvirt-packages
	$(BIN)/python tests/bench/host.py $(if $(JSON),--json $(JSON))

# The policy against its goals: recorded demand where ../shared/traces has it, generated demand everywhere, about half an
# hour on two cores. JSON=FILE writes all figures; nothing is asserted.
bench-policy: venv
	$(BIN)/python tests/bench/policy.py $(if $(JSON),--json $(JSON))
