#!/bin/sh
# Starts tvarr's roles and keeps them running: run-roles.sh [all | coordinator | ffmpegd]...
#
# Without arguments TVARR_ROLE decides, and without that it is `all`: a coordinator and a daemon that finds it, with no
# other setting. A role that crashes is started again after 1, 2, 4 ... 30 s; a minute of health sets the delay back to
# one second. TERM, INT or HUP stop everything: the roles get TERM, a second signal is passed on and makes them stop at
# once, and after 9 s what remains is killed. USR1 retires the daemon: it ends, and stays ended, with its last job.
#
# The exit code is 0 where every role stopped as asked, 2 where a role's settings or the arguments can't be used, 1 where
# a role can't be had here, else the code of the role that did not stop cleanly.
set -uf

SELF=run-roles.sh
KILL_AFTER_S=9
LONGEST_DELAY_S=30
HEALTHY_AFTER_S=60
REMIND_AFTER=10 # tenths of a second, in which nobody is so young any more as to miss a signal

log() { # level, words
    if [ "${TVARR_LOG_FORMAT:-text}" = json ]; then
        printf '{"time": "%s", "level": "%s", "logger": "%s", "message": "%s"}\n' \
            "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$SELF" "$(printf '%s' "$2" | tr -d '"\\')" >&2
    else
        printf '%s: %s\n' "$SELF" "$2" >&2
    fi
}

alive() {
    kill -0 "$1" 2>/dev/null
}

# One `wait`, which a signal may interrupt; the shell's own "Killed" says less than our lines.
look() {
    wait "$1" 2>/dev/null
    code=$?
    [ "$code" -ge 0 ] || code=255 # bash's -1: it has lost the code
}

# The exit code of a child that has ended: what `wait` says now, or said before (then it says 127 now).
last_look() {
    said=$code
    look "$1"
    [ "$code" -ne 127 ] || code=$said
}

# ---------------------------------------------------------------------------- one supervisor, a subshell for each role

# Every signal is passed on; the loops below see $stopping.
on_term() {
    [ -z "$stopping" ] || twice=yes
    stopping=yes
    [ -z "$nap" ] || kill "$nap" 2>/dev/null
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}

# The main shell reminds everybody of its TERM, which is news to who missed it only.
on_usr2() {
    [ -n "$stopping" ] || on_term
}

on_usr1() {
    retiring=yes
    [ -z "$nap" ] || kill "$nap" 2>/dev/null
    [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null
}

# Waits for the role's end and sets $code. Once it is to stop, looks ten times a second and kills it when its time is
# over: the shell reaps its children while it runs `sleep`, so `kill -0` then tells who still lives. A role that has just
# been started is told twice: between fork and exec it has this shell's own handler, which loses the first TERM.
await_child() {
    code=127 again=''
    while [ -z "$stopping" ] && alive "$child"; do look "$child"; done
    if [ -n "$stopping" ]; then
        now=$(date +%s)
        deadline=$((now + KILL_AFTER_S + 1)) # the clock tells whole seconds: up to one of them has passed
        [ $((now - started)) -gt 1 ] || again=$((now + 1))
    fi
    while alive "$child"; do
        now=$(date +%s)
        if [ -n "$again" ] && [ "$now" -gt "$again" ]; then
            again=
            kill -TERM "$child" 2>/dev/null
        fi
        if [ "$now" -ge "$deadline" ]; then
            log error "$role did not stop within $KILL_AFTER_S s: killing it"
            kill -KILL "$child"
            break
        fi
        sleep 0.1
    done
    last_look "$child"
    child=
}

give_up() { # exit code, words
    log error "$2"
    kill -TERM "$MAIN"
    while [ -z "$stopping" ]; do sleep 0.1; done # bash loses our code if we end while the signal interrupts it
    exit "$1"
}

supervise() {
    role=$1 delay=1 first_start=yes
    stopping='' twice='' retiring='' child='' nap=''
    trap '' INT HUP # a terminal sends these to everybody: only the main shell acts on them, and passes TERM on
    trap on_term TERM
    trap on_usr1 USR1
    trap on_usr2 USR2
    while [ -z "$stopping$retiring" ]; do
        started=$(date +%s)
        "$TVARR" "$role" &
        child=$!
        [ -z "$stopping" ] || kill -TERM "$child" # the signal came before the pid was known
        await_child
        [ -z "$retiring" ] || [ "$code" -ne 138 ] || code=0 # it ended of USR1 itself, too young to hear or do anything
        [ -z "$stopping" ] || [ -n "$twice" ] || [ "$code" -ne 143 ] || code=0 # the same of TERM
        [ -z "$stopping$retiring" ] || exit "$code"
        lived=$(($(date +%s) - started))
        case $first_start$code in
        yes2) give_up 2 "$role can't use its settings (exit code 2); its own line above says which: ending" ;;
        yes126 | yes127) give_up 1 "$role can't be started (exit code $code): ending" ;;
        esac
        first_start=
        [ "$lived" -lt "$HEALTHY_AFTER_S" ] || delay=1
        log warning "$role ended with exit code $code after $lived s; starting it again in $delay s"
        sleep "$delay" >/dev/null 2>&1 &
        nap=$!
        [ -n "$stopping$retiring" ] || wait "$nap" # cut short by a signal
        kill "$nap" 2>/dev/null
        nap=
        delay=$((delay * 2))
        [ "$delay" -le "$LONGEST_DELAY_S" ] || delay=$LONGEST_DELAY_S
    done
    exit 0
}

# ------------------------------------------------------------------------------------------------------- the main shell

fail() { # exit code, words
    log error "$2"
    exit "$1"
}

take() { # role
    case "$roles " in *" $1 "*) fail 2 "role '$1' is given twice: takes all, or each role once" ;; esac
    # An image says which roles it is made for.
    case " ${TVARR_IMAGE_ROLES:-$1} " in
    *" $1 "*) ;;
    *) fail 1 "this image can't run $1, it is made for $TVARR_IMAGE_ROLES: take the image tvarr or tvarr-$1" ;;
    esac
    roles="$roles $1"
}

# Lets the two roles of one machine find and trust each other, as far as nobody has said otherwise.
introduce() {
    case ${TVARR_HOST:-::} in
    0.0.0.0 | :: | '[::]') host=127.0.0.1 ;;
    *) host=$TVARR_HOST ;;
    esac
    if [ -z "${TVARR_COORDINATOR_URL:-}${TVARR_COORDINATOR_URL_FILE:-}" ]; then
        export TVARR_COORDINATOR_URL="${TVARR_TLS_CERT:+grpcs://}$host:${TVARR_GRPC_PORT:-9090}"
        [ -z "${TVARR_TLS_CERT:-}" ] || export TVARR_TLS_CA="${TVARR_TLS_CA:-$TVARR_TLS_CERT}"
    fi
    [ -z "${TVARR_AUTH_TOKEN:-}${TVARR_AUTH_TOKEN_FILE:-}" ] || return 0
    data=${TVARR_DATA_DIR:-}
    if [ -z "$data" ]; then
        case ${XDG_DATA_HOME:-} in
        /*) data=$XDG_DATA_HOME/tvarr ;;
        *)
            [ -n "${HOME:-}" ] || fail 1 "no HOME to keep data in: set TVARR_DATA_DIR"
            data=$HOME/.local/share/tvarr
            ;;
        esac
    fi
    token_file=$data/auth-token # where the coordinator keeps its own
    if [ ! -s "$token_file" ]; then
        (
            umask 077
            mkdir -p "$data" &&
                od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$token_file.$$" &&
                mv "$token_file.$$" "$token_file"
        ) || fail 1 "can't write the token that the roles share: $token_file"
    fi
    export TVARR_AUTH_TOKEN_FILE="$token_file"
}

tell() { # signal
    for supervisor in $pids; do kill "-$1" "$supervisor" 2>/dev/null; done
}

# A supervisor that has just been forked may still have this shell's own handler, which loses the TERM: it is reminded.
pass_on() {
    stopping=yes
    [ -z "$launched" ] || tell TERM
    remind=$REMIND_AFTER
}

retire() {
    retiring=yes
    [ -z "$daemon" ] || kill -USR1 "$daemon" 2>/dev/null
}

# shellcheck disable=SC2086 # TVARR_ROLE may name several
[ $# -gt 0 ] || set -- ${TVARR_ROLE:-}
[ $# -gt 0 ] || set -- all
roles=''
for role; do
    case $role in
    all) take coordinator && take ffmpegd ;;
    coordinator | ffmpegd) take "$role" ;;
    *) fail 2 "unknown role '$role': takes all, coordinator, ffmpegd" ;;
    esac
done

here=$(cd "$(dirname "$0")" && pwd)
TVARR=$here/.venv/bin/tvarr
[ -x "$TVARR" ] || TVARR=$(command -v tvarr) || fail 1 "no program tvarr: looked for $here/.venv/bin/tvarr and on PATH"

case $roles in *coordinator*ffmpegd* | *ffmpegd*coordinator*) introduce ;; esac
# For `tvarr health`, which then knows whom to ask.
[ -z "${TVARR_ROLES_FILE:-}" ] || { printf '%s\n' "$roles" >"$TVARR_ROLES_FILE"; } 2>/dev/null || :

MAIN=$$
pids='' daemon='' launched='' stopping='' retiring='' remind=0
trap pass_on TERM INT HUP
trap retire USR1
for role in $roles; do
    supervise "$role" &
    pids="$pids $!"
    [ "$role" = coordinator ] || daemon=$!
done
launched=yes
[ -z "$stopping" ] || pass_on # the signal came before every pid was known
result=0
for pid in $pids; do
    code=127
    while alive "$pid"; do
        if [ "$remind" -eq 0 ]; then
            look "$pid"
        else
            sleep 0.1
            remind=$((remind - 1))
            [ "$remind" -gt 0 ] || tell USR2
        fi
    done
    last_look "$pid"
    # bash loses the code of a supervisor that a signal reaches as it ends; no role of ours ends with 255
    if [ -n "$stopping$retiring" ] && [ "$code" -eq 255 ]; then code=0; fi
    if [ "$result" -eq 0 ] || [ "$code" -eq 2 ]; then result=$code; fi
done
exit "$result"
