#!/bin/sh
# Builds the image from two copies of the sources, in folders of different names, and compares what came out: the same input, the same bytes.
set -eu
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT INT TERM
for name in a another-folder-with-a-longer-name; do
  git clone -q . "$work/$name"
  # Nothing is shared but what was downloaded.
  (cd "$work/$name" && CARGO_TARGET_DIR="$work/$name/target" ./scripts/image.sh)
  sha256sum <"$work/$name/target/image/athanor.tar"
done | sort -u >"$work/sums"
cat "$work/sums"
[ "$(wc -l <"$work/sums")" = 1 ] || { echo "the image depends on where it is built" >&2; exit 1; }
