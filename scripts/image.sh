#!/bin/sh
# Builds the static binary and, with it, the container image. Paths of this machine are kept out of the binary: the same sources give the
# same bytes wherever they are.
set -eu
cd "$(dirname "$0")/.."
name="${IMAGE:-localhost/athanor:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}"
target="${CARGO_TARGET_DIR:-$PWD/target}"
triple=x86_64-unknown-linux-gnu
# With a triple, flags are for the program alone, not for macros and build scripts, which cannot be static.
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/athanor" \
  cargo build --release -p athanor --target "$triple" --locked
cargo run -q -p athanor-image --bin athanor-image --locked -- --binary "$target/$triple/release/athanor" --name "$name" --out "$target/image/athanor.tar"
