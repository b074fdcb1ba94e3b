#!/usr/bin/env bash
# Builds the images from Debian's packages and tries them, as root, with buildah and mmdebstrap: container/test.sh
# Their storage is a temporary folder; the tests run in a network of their own, where the images' ports are free.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ "$(id -u)" -eq 0 ] || { echo "container/test.sh: needs root, for mmdebstrap and buildah" >&2; exit 1; }
folder=$(mktemp -d /var/tmp/tvarr-images.XXXXXX)
export BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF=$folder/storage.conf
use_storage() { # driver
    printf '[storage]\ndriver = "%s"\ngraphroot = "%s/%s"\nrunroot = "%s/run-%s"\n' "$1" "$folder" "$1" "$folder" "$1" \
        >"$CONTAINERS_STORAGE_CONF"
    export STORAGE_DRIVER=$1
}
clean() {
    buildah rm --all >/dev/null 2>&1 || :
    awk -v folder="$folder/" 'index($2, folder) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
    rm -rf "$folder"
}
trap clean EXIT
# vfs works everywhere and copies the whole image for each layer.
use_storage "${STORAGE_DRIVER:-overlay}"
{ probe=$(buildah from scratch) && buildah mount "$probe" && buildah rm "$probe"; } >/dev/null 2>&1 || use_storage vfs

began=$(date +%s)
container/build.sh --local-base >"$folder/log" 2>&1 || { tail -40 "$folder/log" >&2; exit 1; }
echo "images built in $(($(date +%s) - began)) s"
TVARR_TEST_IMAGES=$folder unshare --net sh -c 'ip link set lo up && exec "$@"' sh \
    "${PYTEST:-.venv/bin/pytest}" -n0 -s -rfEs tests/images "$@"
