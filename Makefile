# `make` alone prints the targets. Everything real is done by cargo and by the programs themselves.

CARGO ?= cargo
PREFIX ?= /usr/local
# Flags for the programs behind the targets, for example: make chaos ARGS="--duration 30s --writers 4"
ARGS ?=
# How many schedules `make sim` runs, and the first seed; each has its own number, so that another FIRST is another run.
SEEDS ?= 100000
FIRST ?= 0
BIN := $(or $(CARGO_TARGET_DIR),target)/release

.DEFAULT_GOAL := help
.PHONY: help cargo build test check bless sim cluster kill-leader demo chaos faults bench bench-peers growth
.PHONY: failover model bugbank fuzz fulldisk install clean

help:
	@echo 'make build        build the server, the client and the chaos tool (release)'
	@echo 'make test         run all tests'
	@echo 'make check        format, lints, documentation and all tests; warnings are errors'
	@echo 'make bless        record the transcripts of the Raft scripts and the sound inputs of fuzzing anew; read the diff before you commit'
	@echo 'make sim          simulate SEEDS=$(SEEDS) clusters with faults of all kinds, from seed FIRST=$(FIRST) on'
	@echo 'make cluster      three nodes in this terminal, clients at localhost:9001 to 9003'
	@echo 'make kill-leader  kill -9 the leader of the running cluster'
	@echo 'make demo         unattended: a cluster, three killed leaders, the verdict'
	@echo 'make chaos        loop writes on the running cluster until Ctrl-C, then verify'
	@echo 'make faults       break a cluster of its own in every way for 30 s, then judge; report in target/faults.html'
	@echo 'make bench        the standard table on a scratch cluster, beside the limits of this machine: RUNS=$(RUNS), some minutes;'
	@echo '                  with ARGS one measurement: make bench ARGS="--workload get --connections 16"'
	@echo 'make bench-peers  the same load on ApexKV, Redis, ZooKeeper and etcd, as far as they are installed'
	@echo 'make growth       throughput as keys, connections and values grow, on scratch clusters: RUNS=$(RUNS) of SECONDS=$(or $(SECONDS),3)'
	@echo '                  for each point, some six minutes; KEYS_MAX=10000000 adds ten million keys, ARGS="--plot FILE.svg" a plot'
	@echo 'make failover     kill the leader of a cluster of its own 50 times; ARGS="--how pause" silences it'
	@echo 'make install      copy the three programs to $$(PREFIX)/bin, PREFIX=$(PREFIX)'
	@echo 'make model        visit every state of the Raft core within the large bounds, up to STATES=$(STATES) of each set'
	@echo 'make fuzz         fuzz TARGET=$(TARGET) for SECONDS=$(or $(SECONDS),60), guided by coverage; TARGET=all takes one after another'
	@echo 'make fulldisk     fill the disks of three nodes, on small file systems of their own: as root, or where user namespaces are allowed'
	@echo 'make bugbank      plant known mistakes one by one and show which test notices each'
	@echo 'make clean        remove what was built; the data of make cluster stays in data/'
	@echo
	@echo 'ARGS passes flags on: make chaos ARGS="--duration 30s --writers 4"'

cargo:
	@command -v $(CARGO) >/dev/null || { echo 'make: there is no cargo here: install the Rust toolchain from https://rustup.rs,' \
	'open a new terminal (or run `. ~/.cargo/env`), and try again' >&2; exit 1; }

build: cargo
	@$(CARGO) build --release --workspace --bins

test: cargo
	@$(CARGO) test --workspace

check: cargo
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps
	$(CARGO) test --workspace

bless: cargo
	APEXKV_BLESS=1 $(CARGO) test --test raft scripts
	APEXKV_BLESS=1 $(CARGO) test --test fuzz sound_inputs

sim: cargo
	@APEXKV_PROGRESS=1 APEXKV_SEEDS=$(SEEDS) APEXKV_FIRST=$(FIRST) $(CARGO) test --release -p apexkv --test simulation no_seed -- --nocapture

cluster: build
	@$(BIN)/apexkv-chaos cluster $(ARGS)

kill-leader: build
	@$(BIN)/apexkv-chaos kill-leader $(ARGS)

demo: build
	@$(BIN)/apexkv-chaos demo $(ARGS)

chaos: build
	@$(BIN)/apexkv-chaos $(ARGS)

faults: build
	@$(BIN)/apexkv-chaos run --faults all --report $(BIN)/../faults.html $(ARGS)

# On a real disk: the system's folder for temporary files is often memory, where a sync costs nothing.
SCRATCH ?= target
RUNS ?= 3
ifneq ($(strip $(ARGS)),)
bench: build
	@$(BIN)/apexkv-chaos with-cluster --scratch-in $(SCRATCH) -- $(BIN)/apexkv-client bench $(ARGS)
else
bench: build
	@command -v python3 >/dev/null || { echo 'make: the table needs python3; one measurement does not: make bench ARGS="--workload set"' >&2; \
	exit 1; }
	@$(BIN)/apexkv-chaos with-cluster --scratch-in $(SCRATCH) -- \
	python3 -B tests/bench/table.py --bin $(BIN) --scratch-in $(SCRATCH) --runs $(RUNS)
endif

bench-peers: build
	@tests/bench/peers.sh $(BIN) $(SCRATCH)

# Up to so many keys.
KEYS_MAX ?= 1000000
growth: build
	@command -v python3 >/dev/null || { echo 'make: growth needs python3' >&2; exit 1; }
	@python3 -B tests/bench/growth.py --bin $(BIN) --scratch-in $(SCRATCH) --runs $(RUNS) --seconds $(or $(SECONDS),3) \
	--keys-max $(KEYS_MAX) $(ARGS)

failover: build
	@$(BIN)/apexkv-chaos failover --scratch-in $(SCRATCH) $(ARGS)

# About 400 bytes of memory for each state of the largest set.
STATES ?= 10000000
model: cargo
	@APEXKV_MODEL=full APEXKV_MODEL_STATES=$(STATES) $(CARGO) test --release -p apexkv --test model -- --nocapture

# What is found goes to $(FUZZ_DIR)/found, the inputs collected on the way to $(FUZZ_DIR)/corpus; the corpus under tests/fuzz stays as it is.
# Allocations beyond 64 MiB at once, and inputs that take longer than 10 s, count as failures too.
TARGET ?= all
FUZZ_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))/fuzz
FUZZ_TARGETS := client_frames peer_frames handshake segments slots state_files core_messages
fuzz: cargo
	@$(CARGO) +nightly fuzz --version >/dev/null || { echo 'make: fuzzing needs a nightly compiler and cargo-fuzz:' \
	'rustup toolchain install nightly && cargo install cargo-fuzz' >&2; exit 1; }
	@for target in $(if $(filter all,$(TARGET)),$(FUZZ_TARGETS),$(TARGET)); do \
	mkdir -p $(FUZZ_DIR)/corpus/$$target $(FUZZ_DIR)/found/$$target && \
	$(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz --target-dir $(FUZZ_DIR)/build $$target \
	$(FUZZ_DIR)/corpus/$$target tests/fuzz/corpus/$$target -- -max_total_time=$(or $(SECONDS),60) -max_len=8192 -timeout=10 \
	-malloc_limit_mb=64 -artifact_prefix=$(FUZZ_DIR)/found/$$target/ $(ARGS) || exit 1; done

# In a namespace of its own even as root, so that no mount can stay behind.
fulldisk: cargo
	@APEXKV_SMALL_DISKS=mounted unshare $(if $(filter 0,$(shell id -u)),,--map-root-user) --mount \
	$(CARGO) test -p apexkv --test cluster full_disk $(ARGS)

bugbank: cargo
	@CARGO='$(CARGO)' tests/bugbank.sh $(ARGS)

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 755 $(BIN)/apexkv $(BIN)/apexkv-client $(BIN)/apexkv-chaos '$(DESTDIR)$(PREFIX)/bin'

clean: cargo
	@$(CARGO) clean
