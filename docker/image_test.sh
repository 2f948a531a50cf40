#!/usr/bin/env bash
# Builds the image with buildah, without a container engine, and checks it: runs the demo in it as its own user on a
# read-only root, and two nodes of a cluster with a token. Needs root, buildah, unshare and ip.
#
#   docker/image_test.sh BASE      BASE: an image that buildah finds, or pulls; docker/README.md says how to make one
#
# What pip needs on this machine is given by the environment, and is neither written into the image nor named here:
#   IMAGE_PIP_CONF     a pip configuration, for the build alone
#   IMAGE_VOLUMES      folders that it names, mounted read-only at the same paths for the build; separated by spaces
#   IMAGE_BUILD_ARGS   further build arguments (TORCH_INDEX=… TORCH_BUILD=…), separated by spaces
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=${1:?which base image? See docker/README.md}
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
image=localhost/promptmill:test
work=$(mktemp -d)
container=""

clean_up() {
    if [[ -n $container ]]; then
        buildah rm "$container" >/dev/null
    fi
    rm -rf "$work"
}
trap clean_up EXIT

build() {
    local arguments=() folder pair
    if [[ -n ${IMAGE_PIP_CONF:-} ]]; then
        arguments+=(--secret "id=pipconf,src=$IMAGE_PIP_CONF")
    fi
    for folder in ${IMAGE_VOLUMES:-}; do
        arguments+=(--volume "$folder:$folder:ro")
    done
    for pair in ${IMAGE_BUILD_ARGS:-}; do
        arguments+=(--build-arg "$pair")
    done
    buildah build --quiet --layers --format docker --network host --file docker/Dockerfile --tag "$image" \
        --build-arg "BASE=$base" --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' pipeline/__init__.py)" \
        --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || true)" ${arguments[@]+"${arguments[@]}"} . >/dev/null
}

# A command in the image as its user, on a read-only root and without a network: only /tmp, /cache, /outputs and
# /dev/shm can be written.
inside() {
    unshare --mount --net --pid --fork --kill-child docker/read_only_root.sh "$root" "$work" "$@"
}

echo "building on $base"
SECONDS=0
build
echo "built in $SECONDS s"
container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
mkdir "$work/outputs" "$work/cache"
chown 10001:10001 "$work/outputs" "$work/cache"

echo "what the image is, in buildah run"
# shellcheck disable=SC2016  # the image's shell expands it
buildah run "$container" -- bash -euc '
    test "$(id -u)" = 10001
    for tool in cc gcc c++ g++ clang ld as make /opt/promptmill/bin/pip; do
        if command -v "$tool"; then echo "is in the image" >&2; exit 1; fi
    done
    test "$(bash -lc "command -v promptmill")" = /opt/promptmill/bin/promptmill
    promptmill generate experiment=demo output.path=/outputs/demo --cfg job >/dev/null
'
buildah inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Healthcheck.Test}}' "$image" |
    grep -qx '10001:10001 \[CMD healthy\]'

echo "the demo, on a Ray of its own"
SECONDS=0
# shellcheck disable=SC2016
inside bash -euc '
    if touch /opt/promptmill/x /home/promptmill/x /etc/x 2>/dev/null; then echo "the root can be written" >&2; exit 1; fi
    promptmill generate experiment=demo output.path=/outputs/demo
    promptmill verify output.path=/outputs/demo
    python -c "
import json, sys
found = json.load(open(\"/outputs/demo/_job/manifest.json\"))
assert found[\"totals\"][\"rows\"] == 64 and not found[\"totals\"][\"errors\"], found[\"totals\"]
compiled = found[\"environment\"][\"compiled\"]
assert compiled.startswith(\"x86-64\") or compiled == \"generic\", compiled
assert found[\"environment\"][\"batch_invariant\"] is True
print(\"compiled kernels:\", compiled)
"
    healthy
'
echo "the demo took $SECONDS s"

echo "a cluster of two nodes with a token"
SECONDS=0
inside bash -euo pipefail -c "$(<docker/cluster_test.sh)"
echo "the cluster took $SECONDS s"

echo "size of the image's files:"
du -shx "$root" | cut -f1
du -xm --max-depth=1 "$root"/opt/promptmill/lib/python3*/site-packages | sort -rn | sed -n 2,9p | sed "s#$root##"
echo "the image is good"
