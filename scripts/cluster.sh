#!/bin/sh
# Builds the test control plane from the modules in tests/cluster, once for each state of them, into the cache. Prints where it is.
set -eu
here="$(cd "$(dirname "$0")/../tests/cluster" && pwd)"
key="$(cat "$here"/*/go.mod "$here"/*/go.sum "$0" | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/athanor-cluster"
bin="$cache/$key"
mkdir -p "$cache"
# Two that find nothing built would build it twice.
exec 9>"$cache/lock"
flock 9
if [ ! -e "$bin/complete" ]; then
  command -v go >/dev/null 2>&1 || { echo "go is missing: the test control plane is built from Go modules; install Go 1.26, or name an API server of your own in KUBECONFIG" >&2; exit 1; }
  mkdir -p "$bin"
  export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-trimpath
  version=v1.36.4
  flags="-s -w"
  # An API server that is not stamped says v0.0.0, and clients refuse it.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=36 -X $package.gitTreeState=clean -X $package.gitCommit=unknown -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  (cd "$here/etcd" && go build -ldflags "-s -w" -o "$bin/etcd" go.etcd.io/etcd/server/v3) >&2
  for program in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
    (cd "$here/k8s" && go build -ldflags "$flags" -o "$bin/" "k8s.io/kubernetes/cmd/$program") >&2
  done
  (cd "$here/helm" && go build -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=v4.2.4" -o "$bin/helm" helm.sh/helm/v4/cmd/helm) >&2
  touch "$bin/complete"
  find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name "$key" -exec rm -rf {} +
fi
echo "$bin"
