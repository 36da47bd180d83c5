# Targets are one line each; what they need is installed by `setup`.
.PHONY: setup build test lint golden demo clean

setup: ; ./scripts/setup.sh
build: setup ; cargo build --workspace --all-targets --locked
test: build ; cargo test --workspace --locked --no-fail-fast -- --test-threads=2
lint: ; cargo fmt --check && cargo clippy --workspace --all-targets --locked -- -D warnings
golden: ; ATHANOR_GOLDEN=write INSTA_UPDATE=always cargo test -q -p athanor-crds -p athanor-plan -p athanor --locked
demo: build ; "$${CARGO_TARGET_DIR:-target}/debug/demo"
clean: ; cargo clean
