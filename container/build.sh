#!/usr/bin/env bash
# Builds the images with podman, docker or buildah (ENGINE chooses): container/build.sh [--local-base]
#
# --local-base makes the base image here, with mmdebstrap and as root, instead of pulling it: for machines that reach
# Debian's packages and no registry of images. PIP_CERT may name a certificate bundle that pip has to trust.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "container/build.sh: $1" >&2
    exit "${2:-1}"
}

local_base=
case $* in
'') ;;
--local-base) local_base=yes ;;
*) fail "takes nothing or --local-base, not '$*'" 2 ;;
esac

candidates=(podman docker buildah)
[ -z "$local_base" ] || candidates=(buildah)
engine=${ENGINE:-}
for candidate in "${candidates[@]}"; do
    [ -n "$engine" ] || ! command -v "$candidate" >/dev/null || engine=$candidate
done
[ -n "$engine" ] || fail "needs one of ${candidates[*]}"

# As Debian's slim image: no manuals, no translations, no package lists.
make_base() { # name
    command -v mmdebstrap >/dev/null || fail "--local-base needs mmdebstrap"
    local suite=trixie mirror=http://deb.debian.org container tarball
    tarball=$(mktemp)
    mmdebstrap --quiet --variant=minbase --include=ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
        --aptopt='Dir::Cache::pkgcache ""' --aptopt='Dir::Cache::srcpkgcache ""' \
        "$suite" - \
        "deb $mirror/debian $suite main" \
        "deb $mirror/debian $suite-updates main" \
        "deb $mirror/debian-security $suite-security main" >"$tarball"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$tarball" / >/dev/null
    buildah config --cmd bash "$container"
    buildah commit --quiet --rm "$container" "$1" >/dev/null
    rm -f "$tarball"
}

arguments=(--file Containerfile)
[ "$engine" = docker ] || arguments+=(--format docker --layers) # OCI's own format has no HEALTHCHECK
if [ -n "$local_base" ]; then
    make_base "$(sed -n 's/^ARG DEBIAN=//p' Containerfile)"
    arguments+=(--pull-never)
fi
if [ -n "${PIP_CERT:-}" ] && [ "$engine" != docker ]; then
    arguments+=(--volume "$PIP_CERT:/run/pip-cert.pem:ro" --build-arg PIP_CERT=/run/pip-cert.pem)
fi
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' tvarr/__init__.py)
arguments+=(--build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")

build=build
[ "$engine" != buildah ] || build=bud
for target in tvarr-coordinator tvarr-ffmpegd tvarr; do
    names=(--tag "$target:latest" --tag "$target:$version")
    [ "$target" != tvarr ] || names+=(--tag tvarr:ffmpeg-full)
    "$engine" "$build" "${arguments[@]}" --target "$target" "${names[@]}" .
done
