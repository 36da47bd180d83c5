# Targets are one line each; what they need is installed by `setup`.
.PHONY: setup build test test-cluster fuzz soak lint golden bench demo image ramdisk clean
SUITE ?= small
TOOLS = $${XDG_CACHE_HOME:-$$HOME/.cache}/athanor-tests
TARGET = $${CARGO_TARGET_DIR:-$(CURDIR)/target}

setup: ; ./scripts/setup.sh
build: setup ; cargo build --workspace --all-targets --all-features --locked
test: build ramdisk ; cargo test --workspace --locked --no-fail-fast -- --test-threads=2
test-cluster: build image ; ./scripts/setup.sh nodes && ./scripts/cluster.sh >/dev/null && ATHANOR_API=cluster cargo test --workspace --all-features --locked --no-fail-fast --test cluster --test faults --test nodes --test chart --test api --test truth --test boot --test bad_input --test trouble --test restore --test agents --test own_cluster -- --test-threads=2
fuzz: build ; FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test --workspace --locked --no-fail-fast --test fuzz -- --test-threads=2
soak: build ; FUZZ_SECONDS=600 $(MAKE) fuzz && ./scripts/same-image.sh
lint: setup ; cargo fmt --check && cargo clippy --workspace --all-targets --all-features --locked -- -D warnings && cargo clippy -p athanor-local-disk --target x86_64-unknown-uefi --locked -- -D warnings && cargo fetch -q --locked && $(TOOLS)/cargo-deny --offline check bans licenses sources
golden: ; ATHANOR_GOLDEN=write INSTA_UPDATE=always cargo test -q --workspace --all-features --locked --lib --bins --test chart --test lifecycle
bench: setup ; ./scripts/setup.sh peers && cargo build --release -p athanor -p athanor-tests --locked && ATHANOR_TEST_LOG=info ATHANOR_BIN="$(TARGET)/release/athanor" "$(TARGET)/release/bench" $(SUITE)
demo: setup ; cargo build -p athanor -p athanor-tests --bin athanor --bin demo --all-features --locked && "$(TARGET)/debug/demo"
image: setup ; ./scripts/image.sh
ramdisk: setup ; ./scripts/ramdisk.sh
clean: ; cargo clean
