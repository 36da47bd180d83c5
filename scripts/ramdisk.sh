#!/bin/sh
# Builds the machine-agent's ramdisk from Debian's kernel package and the static agent. `KERNEL` names another unpacked kernel package,
# `FIRMWARE` a folder of firmware files.
set -eu
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/athanor-tests"
triple=x86_64-unknown-linux-gnu

if [ -z "${KERNEL:-}" ]; then
  package="$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)"
  [ -n "$package" ] || { echo "no Debian package with a kernel is known; run: apt-get update" >&2; exit 1; }
  KERNEL="$cache/$package"
  if [ ! -d "$KERNEL/lib/modules" ]; then
    folder="$(mktemp -d)"
    (cd "$folder" && apt-get download -qq "$package")
    rm -rf "$KERNEL" "$KERNEL.new"
    dpkg -x "$folder/$package"_*.deb "$KERNEL.new"
    mv "$KERNEL.new" "$KERNEL"
    rm -rf "$folder"
  fi
fi

CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=/athanor" \
  cargo build --profile agent -p athanor-machine-agent --bin machine-agent --target "$triple" --locked
cargo run -q -p athanor-image --bin athanor-ramdisk --locked -- --kernel "$KERNEL" --agent "$target/$triple/agent/machine-agent" ${FIRMWARE:+--firmware "$FIRMWARE"} --out "$target/ramdisk"
