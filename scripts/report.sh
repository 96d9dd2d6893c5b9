# shellcheck shell=bash
# How the set-up speaks: one line a step, and of a failed step the end of its output.

say() { printf 'set-up: %s\n' "$*"; }

fail() {
    printf 'set-up: %s\n' "$*" >&2
    exit 1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# logged WHAT COMMAND…: runs COMMAND quietly; if it fails, shows the end of what it said.
logged() {
    local what=$1
    shift
    # Descriptor 9 is the set-up's lock: nothing started here may keep it.
    if ! "$@" >"$log" 2>&1 </dev/null 9<&-; then
        tail -n 20 "$log" | sed 's/^/    /' >&2
        fail "$what failed: the end of its output stands above"
    fi
}
