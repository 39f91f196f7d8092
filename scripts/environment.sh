# Sourced by the other scripts: where things are, and how to speak.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
export PATH=$PATH:$HOME/.cargo/bin

# The kernel that the guest tests boot, unpacked here by scripts/setup.
export ASHLAR_GUEST_KERNEL=${ASHLAR_GUEST_KERNEL:-$CARGO_TARGET_DIR/guest/kernel}
# open-iscsi for the guest, unpacked here too.
export ASHLAR_GUEST_ISCSI=${ASHLAR_GUEST_ISCSI:-$CARGO_TARGET_DIR/guest/iscsi}
# multipath-tools and what they need of udev, for the guest as well.
export ASHLAR_GUEST_MULTIPATH=${ASHLAR_GUEST_MULTIPATH:-$CARGO_TARGET_DIR/guest/multipath}
# The CSI community's suite, built here too.
export ASHLAR_CSI_SANITY=${ASHLAR_CSI_SANITY:-$CARGO_TARGET_DIR/csi/csi-sanity}
# Schemathesis, which sends the API what its document allows and what it does not; installed here as well.
export ASHLAR_SCHEMATHESIS=${ASHLAR_SCHEMATHESIS:-$CARGO_TARGET_DIR/schemathesis/bin/schemathesis}
# helm, kubeconform, Kubernetes' schemas and a Python that reads YAML, for what deploys Ashlar there; made here.
export ASHLAR_KUBERNETES=${ASHLAR_KUBERNETES:-$CARGO_TARGET_DIR/kubernetes}
# The binary that the end-to-end tests, the guest and the benchmark run.
export ASHLAR_BIN=${ASHLAR_BIN:-$CARGO_TARGET_DIR/release/ashlar}

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Builds the release binary once; quiet when there is nothing to do.
build_ashlar() {
    say "Building ashlar (release)"
    cargo build --release --locked -p ashlar-cli
}
