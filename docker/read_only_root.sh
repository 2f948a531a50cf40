#!/usr/bin/env bash
# Runs a command in an image's files as its user, in namespaces of its own: the root is read-only, the network loopback.
#   read_only_root.sh ROOT WORK COMMAND…      WORK has the folders outputs and cache
set -euo pipefail
root=$1 work=$2
shift 2
ip link set lo up
mount --make-rprivate /
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777,size=1g tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=1g tmpfs "$root/tmp"
mount --bind "$work/outputs" "$root/outputs"
mount --bind "$work/cache" "$root/cache"
exec chroot "$root" env -i HOME=/home/promptmill PATH=/opt/promptmill/bin:/usr/local/bin:/usr/bin:/bin \
    HF_HOME=/cache/huggingface HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1 \
    setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all "$@"
