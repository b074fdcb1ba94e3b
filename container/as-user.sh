#!/bin/sh
# Runs a program without root's privileges: as-user.sh PROGRAM ARGUMENT...
#
# Started as root it becomes the user PUID with the group PGID (1000 and 1000), who then owns the data folder, and joins
# the groups of the graphics devices that are here, as well as those that the container was given. Started as another
# user (`podman run --user`, `runAsUser`), it changes nothing.
set -euf

fail() { # exit code, words
    if [ "${TVARR_LOG_FORMAT:-text}" = json ]; then
        printf '{"time": "%s", "level": "error", "logger": "as-user.sh", "message": "%s"}\n' \
            "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(printf '%s' "$2" | tr -d '"\\\000-\037')" >&2
    else
        printf 'as-user.sh: %s\n' "$2" >&2
    fi
    exit "$1"
}

number() { # name of a variable, its value
    case $2 in
    '' | *[!0-9]*) fail 2 "$1 takes a user's or group's number, not '$2'" ;;
    esac
}

[ $# -gt 0 ] || fail 2 "which program?"
[ "$(id -u)" -eq 0 ] || exec "$@"

uid=${PUID:-1000}
gid=${PGID:-1000}
number PUID "$uid"
number PGID "$gid"

# A role that may not write there says so itself.
data=${TVARR_DATA_DIR:-/data}
if [ -d "$data" ] && [ "$(stat -c %u:%g "$data")" != "$uid:$gid" ]; then
    chown -R "$uid:$gid" "$data" 2>/dev/null || :
fi
[ -z "${TVARR_ROLES_FILE:-}" ] || chown "$uid:$gid" "$(dirname "$TVARR_ROLES_FILE")" 2>/dev/null || :

groups=$gid
set +f
for group in $(id -G) $(stat -c %g /dev/dri/renderD* 2>/dev/null); do
    case ",0,$groups," in
    *",$group,"*) ;;
    *) groups=$groups,$group ;;
    esac
done
exec setpriv --reuid "$uid" --regid "$gid" --groups "$groups" --no-new-privs -- "$@"
