# The whole build and every check. `make help` lists the targets. What takes
# more than a few lines is a script or a Go program under test/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VERSION := 0.1.0
COMMIT  := $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo unknown)

# What is slow to make and depends on nothing but its inputs (tools, kernels)
# is kept outside the checkout, so that a fresh clone finds it.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kata-runtime
export KATA_CACHE_DIR := $(CACHE)
TOOLS := $(CACHE)/tools
SHARE := share/kata-containers

PREFIX  := /usr/local
DESTDIR :=

GO      := go
STAMP   := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
LDFLAGS := -s -w $(STAMP)
# The agent carries libcontainer, whose first steps in a new container are C,
# and libseccomp; the initrd has no libraries, so it is linked statically. Of CRIU, which
# libcontainer could save containers by, it has nothing.
AGENT_TAGS    := seccomp netgo osusergo runc_nocriu
AGENT_LDFLAGS := $(LDFLAGS) -linkmode external -extldflags -static

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that are missing to build and run (needs root only then)
	@test/deps.sh run build kernel

.PHONY: deps-test
deps-test: ## the above, and what tests and benchmarks drive: runc, podman, containerd, docker
	@test/deps.sh run build kernel test lab

.PHONY: build
build: ## bin/kata-runtime, bin/containerd-shim-kata-v2, bin/kata-device and bin/kata-agent
	CGO_ENABLED=0 $(GO) build -trimpath -tags urfave_cli_no_docs -ldflags '$(LDFLAGS)' -o bin/kata-runtime ./cmd/kata-runtime
	CGO_ENABLED=0 $(GO) build -trimpath -tags no_grpc -ldflags '$(LDFLAGS)' -o bin/containerd-shim-kata-v2 ./cmd/containerd-shim-kata-v2
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/kata-device ./cmd/kata-device
	CGO_ENABLED=1 $(GO) build -trimpath -tags '$(AGENT_TAGS)' -ldflags '$(AGENT_LDFLAGS)' -o bin/kata-agent ./cmd/kata-agent

.PHONY: kernel
kernel: ## compile the guest kernel, or take it from the cache
	$(GO) run ./kernel-config build -o $(SHARE)/vmlinux

.PHONY: kernel-modules
kernel-modules: build ## a guest kernel with modules, and its initrd, in share/kata-containers/modular
	$(GO) run ./kernel-config build -o $(SHARE)/modular/vmlinux -modules $(SHARE)/modular/modules
	$(GO) run ./rootfs-builder -agent bin/kata-agent -modules $(SHARE)/modular/modules \
	  -o $(SHARE)/modular/initrd.img -manifest $(SHARE)/modular/initrd.manifest.json -sbom $(SHARE)/modular/initrd.spdx.json $(IMAGE_FLAGS)

# They boot with the initrd of make image, or with a disk image.
PROFILES := minimal debug lsm

.PHONY: kernel-profiles
kernel-profiles: ## guest kernels of other profiles, in share/kata-containers/PROFILE (PROFILES=lsm: of one)
	@test/deps.sh kernel $(if $(filter debug,$(PROFILES)),types)
	for profile in $(PROFILES); do $(GO) run ./kernel-config build -profile $$profile -o $(SHARE)/$$profile/vmlinux; done

# A static busybox in the images, for exec --guest: make image BUSYBOX=/bin/busybox
BUSYBOX :=
IMAGE_FLAGS := $(if $(BUSYBOX),-busybox '$(BUSYBOX)')

.PHONY: image
image: image-debian ## initrds: for Debian's kernel, and for the built one when it is there (BUSYBOX=FILE: with a shell)
	@if [[ -e $(SHARE)/vmlinux ]]; then set -x; $(GO) run ./rootfs-builder -agent bin/kata-agent \
	  -o $(SHARE)/initrd.img -manifest $(SHARE)/initrd.manifest.json -sbom $(SHARE)/initrd.spdx.json $(IMAGE_FLAGS); fi

.PHONY: image-debian
image-debian: build
	$(GO) run ./kernel-config debian -o $(SHARE)/debian
	$(GO) run ./rootfs-builder -agent bin/kata-agent -modules $(SHARE)/debian/modules \
	  -o $(SHARE)/debian/initrd.img -manifest $(SHARE)/debian/initrd.manifest.json -sbom $(SHARE)/debian/initrd.spdx.json $(IMAGE_FLAGS)

# Guests of another architecture than the host's, under emulation. The agent takes a
# cross compiler, and libseccomp of that architecture, which is not installed but
# unpacked in the cache.
ARM64 := $(SHARE)/arm64
ARM64_CC := aarch64-linux-gnu-gcc

bin/arm64/kata-agent: FORCE
	@test/deps.sh arm64
	seccomp=$$($(GO) run ./kernel-config package -arch arm64 libseccomp-dev) && \
	  CGO_ENABLED=1 GOARCH=arm64 CC=$(ARM64_CC) PKG_CONFIG_LIBDIR="$$seccomp/usr/lib/aarch64-linux-gnu/pkgconfig" \
	  CGO_CFLAGS="-O2 -g -I$$seccomp/usr/include" CGO_LDFLAGS="-L$$seccomp/usr/lib/aarch64-linux-gnu" \
	  $(GO) build -trimpath -tags '$(AGENT_TAGS)' -ldflags '$(AGENT_LDFLAGS)' -o $@ ./cmd/kata-agent

.PHONY: FORCE
FORCE:

.PHONY: arm64
arm64: bin/arm64/kata-agent ## what arm64 guests boot on an x86-64 host: initrds, for Debian's kernel, and for the built one when it is there
	$(GO) run ./kernel-config debian -arch arm64 -o $(ARM64)/debian
	$(GO) run ./rootfs-builder -agent bin/arm64/kata-agent -modules $(ARM64)/debian/modules \
	  -o $(ARM64)/debian/initrd.img -manifest $(ARM64)/debian/initrd.manifest.json -sbom $(ARM64)/debian/initrd.spdx.json
	@if [[ -e $(ARM64)/vmlinux ]]; then set -x; $(GO) run ./rootfs-builder -agent bin/arm64/kata-agent \
	  -o $(ARM64)/initrd.img -manifest $(ARM64)/initrd.manifest.json -sbom $(ARM64)/initrd.spdx.json; fi

build/arm64/busybox:
	@mkdir -p $(@D)
	package=$$($(GO) run ./kernel-config package -arch arm64 busybox-static) && cp "$$package/bin/busybox" $@

.PHONY: kernel-arm64
kernel-arm64: ## cross-compile the guest kernel for arm64, or take it from the cache; make arm64 comes after it
	@test/deps.sh kernel arm64
	$(GO) run ./kernel-config build -arch arm64 -o $(ARM64)/vmlinux

.PHONY: image-disk
image-disk: build kernel ## a disk image with dm-verity for the built kernel, in the place of its initrd
	$(GO) run ./rootfs-builder -type erofs -agent bin/kata-agent \
	  -o $(SHARE)/guest.img -sbom $(SHARE)/guest.spdx.json $(IMAGE_FLAGS)

# What the manifests of deploy/ name. There is no registry: each node imports it.
NODE_IMAGE := localhost/kata-runtime-node:$(VERSION)

.PHONY: deploy-image
deploy-image: build image ## the image that installs everything on Kubernetes nodes, an OCI archive in build/
	@mkdir -p build
	$(GO) run ./deploy/image -name '$(NODE_IMAGE)' -version '$(VERSION)' -o build/kata-runtime-node.tar

.PHONY: demo
demo: ## build everything and run a container in a VM, without compiling a kernel
	@test/deps.sh run build
	@$(MAKE) --no-print-directory image-debian
	@$(GO) run ./test/demo

.PHONY: systemd
systemd: ## a Debian with systemd that tests run in a container, or the one in the cache
	$(GO) run ./test/rootfs systemd

.PHONY: programs
programs: ## a Debian with what make test-full runs in a guest, or the one in the cache
	$(GO) run ./test/rootfs programs

.PHONY: containerd
containerd: ## the containerd 2 that tests drive, or the one in the cache
	@tools=$$(test/tools.sh "$(TOOLS)" containerd) && mkdir -p build && ln -sfnv "$$tools" build/containerd

.PHONY: crio
crio: ## the CRI-O that tests drive, or the one in the cache
	@tools=$$(test/tools.sh "$(TOOLS)" crio) && mkdir -p build && ln -sfnv "$$tools" build/crio

.PHONY: critest
critest: ## the validation suite of CRI that tests run, or the one in the cache
	@tools=$$(test/tools.sh "$(TOOLS)" critest) && mkdir -p build && ln -sfnv "$$tools" build/critest

.PHONY: kubernetes
kubernetes: ## the Kubernetes (API server, kubelet, etcd ...) that tests drive, or the one in the cache
	@tools=$$(test/tools.sh "$(TOOLS)" kubernetes) && mkdir -p build && ln -sfnv "$$tools" build/kubernetes

.PHONY: test
test: deps-test build kernel image systemd containerd crio critest arm64 build/arm64/busybox lint vet ## everything that CI checks, VM tests included (root)
	@test/run.sh

.PHONY: unit
unit: ## the tests that need neither root nor a VM, with the race detector
	$(GO) test -race ./...

DURATION := 1m

.PHONY: fuzz
fuzz: ## fuzz each fuzz target for DURATION (make fuzz DURATION=1h FUZZ=PATTERN)
	@FUZZ='$(FUZZ)' test/fuzz.sh $(DURATION)

.PHONY: vet
vet:
	$(GO) vet ./...
	$(GO) vet -tags vm ./...
	$(GO) vet -tags vm,lab ./...
	$(GO) vet -tags vm,full ./test/programs ./test/vm
	$(GO) vet -tags vhost ./hypervisor/vsock
	$(GO) vet -tags inguest ./guest/guesttest/inside

.PHONY: test-lab
test-lab: deps-test build kernel image systemd containerd kubernetes ## tests on an emulated machine with KVM, vhost, cgroup v2 and systemd (an hour; SETS=PATTERN for some)
	@test/run.sh --lab $(if $(SETS),-sets '$(SETS)')

.PHONY: test-full
test-full: test kernel-modules kernel-profiles programs ## the above, then each fuzz target for a while, the tests repeated, and real programs with each kernel
	@test/fuzz.sh 30s
	$(GO) test -race -count=3 ./...
	KATA_TEST_FULL=1 $(GO) test -tags vm -count=1 -timeout 20m -run '^(TestManyCalls|TestManyAtOnce|TestManyContainers|TestLongStream)' ./test/vm
	KATA_TEST_FULL=1 $(GO) test -tags vm -count=1 -timeout 20m -run '^(TestGuests|TestAppArmor|TestSELinux)$$' ./test/vm
	$(GO) test -tags full -count=1 -timeout 2h -run '^TestReproducible$$' ./kernel-config/kernel
	KATA_TEST_FULL=1 $(GO) test -tags vm,full -count=1 -timeout 20m -run '^(TestFileServer|TestInotifyOfPods)$$' ./test/vm
	KATA_TEST_FULL=1 $(GO) test -tags vm -count=1 -timeout 2h -run '^TestManyCycles$$' ./test/vm
	KATA_TEST_FULL=1 $(GO) test -tags vm -count=1 -timeout 20m -run '^TestPodmanLoop$$' ./test/callers
	KATA_TEST_FULL=1 $(GO) test -tags vm -count=1 -timeout 20m -run '^(TestManyPods|TestManyPodsByShim|TestDeathsByShim|TestContainerd2|TestCRIO)$$' ./test/cri
	KATA_TEST_FULL=1 $(GO) test -tags vm -count=1 -timeout 20m -run '^(TestManyPods|TestBridge)$$' ./test/network
	$(GO) test -tags vm,full -count=1 -timeout 2h ./test/programs

# Another commit, to compare with: make bench BASE=COMMIT
BASE :=

.PHONY: bench
bench: deps-test build kernel image crio ## measure start time, memory, calls, throughput and network, and print the tables (BASE=COMMIT: and what a commit took)
	@$(GO) run ./test/bench
	@$(MAKE) --no-print-directory bench-pods
	@echo; echo "A pod, a container's creation and start, and exec through CRI-O, medians of 7"
	@$(GO) test -tags vm -run '^$$' -bench '^BenchmarkCRIO$$' -benchtime 7x -timeout 20m ./test/cri

.PHONY: bench-pods
bench-pods: ## the part of bench about pods through containerd (BASE=COMMIT as there)
	@base=$(if $(BASE),$$(test/base.sh "$(CACHE)/base" '$(BASE)')); echo; \
	  echo "Pods through containerd's CRI, on a bridge, by its shim for runc and by ours, medians of 7, alternating"; \
	  KATA_BENCH_BASE=$$base $(GO) test -tags vm -run '^$$' -bench '^BenchmarkFrontEnds$$' -benchtime 7x -timeout 20m ./test/cri
	@$(GO) test -tags vm -run '^$$' -bench '^BenchmarkPool$$' -benchtime 7x -timeout 20m ./test/cri

.PHONY: lint
lint: ## golangci-lint, with the import rules of the architecture
	@tools=$$(test/tools.sh "$(TOOLS)") && "$$tools/golangci-lint" run --allow-parallel-runners

.PHONY: fmt
fmt: ## format the Go sources
	@tools=$$(test/tools.sh "$(TOOLS)") && "$$tools/golangci-lint" fmt

.PHONY: install
install: ## copy programs, kernels and images below DESTDIR/PREFIX
	for program in kata-device kata-runtime containerd-shim-kata-v2; do \
	  install -D -m 0755 bin/$$program "$(DESTDIR)$(PREFIX)/bin/$$program"; done
	for file in $$(cd $(SHARE) && find . -type f); do \
	  install -D -m 0644 "$(SHARE)/$$file" '$(DESTDIR)$(PREFIX)/$(SHARE)'/"$$file"; done
	for modules in $$(cd $(SHARE) && find . -name modules -type l); do \
	  rm -rf '$(DESTDIR)$(PREFIX)/$(SHARE)'/"$$modules" && cp -R "$(SHARE)/$$modules/" '$(DESTDIR)$(PREFIX)/$(SHARE)'/"$$modules"; done

.PHONY: uninstall
uninstall: ## remove what install copied
	rm -f $(foreach program,kata-runtime containerd-shim-kata-v2 kata-device,'$(DESTDIR)$(PREFIX)/bin/$(program)')
	rm -rf '$(DESTDIR)$(PREFIX)/$(SHARE)'

.PHONY: clean
clean: ## remove what was built in the checkout; the cache stays
	rm -rf bin share build
