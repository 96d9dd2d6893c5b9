# shellcheck shell=bash
# What the provisioning scripts have in common. Each may run any number of times.

say() { printf '%s: %s\n' "$(hostname)" "$*"; }

fail() {
    printf '%s: %s\n' "$(hostname)" "$*" >&2
    exit 1
}

# need PACKAGE…: installs what is missing, and does without a network if nothing is.
need() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>&1) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]} > 0)) || return 0
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install --yes --no-install-recommends "${missing[@]}"; } >/dev/null ||
        fail "apt cannot install ${missing[*]}: this machine needs a network, or a box that has them"
}

# interface_with MAC: prints the name of the interface with this address.
interface_with() {
    local file
    for file in /sys/class/net/*/address; do
        if [[ $(<"$file") == "$1" ]]; then
            basename "$(dirname "$file")"
            return
        fi
    done
    fail "no interface has the address $1: vagrant/Vagrantfile gives it one (vagrant reload)"
}

# put FILE: writes stdin there; true if that changes the file.
put() {
    local new
    new=$(mktemp)
    cat >"$new"
    if cmp --quiet "$new" "$1"; then
        rm "$new"
        return 1
    fi
    install -D -m 644 "$new" "$1"
    rm "$new"
}
