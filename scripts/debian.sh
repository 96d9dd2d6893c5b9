# shellcheck shell=bash
# Debian packages: only what is missing, and no service started on the user's machine.

# Prints those of the named packages that are not fully installed.
missing_of() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>&1) == installed ]] ||
            printf '%s\n' "$package"
    done
}

# prepare_apt PURPOSE PACKAGE…: everything before the packages can be installed.
prepare_apt() {
    local target=${1/#run/venv}
    shift
    command -v apt-get >/dev/null || fail "this is no Debian (no apt-get), and it lacks: $*"
    ((EUID == 0)) || fail "Debian packages are missing ($*): run 'sudo make $target' once"
    say "installing Debian packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    logged 'apt-get update' apt-get update
    # Needed after an interrupted run; does nothing otherwise.
    logged 'dpkg --configure' env PATH="$no_services:$PATH" dpkg --configure -a
}

apt_install() {
    # A machine that has just started may be busy with its own upgrades: wait for the lock.
    logged 'apt-get install' \
        apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
}

# Whoever types `make test` has not asked for a web server on port 80. The commands with which
# packages start and enable their services are shadowed, for dpkg alone, by those in this
# directory. Nothing remains to be undone, however the installation ends.
no_services=$PWD/scripts/no-services

apt_install_without_services() {
    apt_install -o DPkg::Path="$no_services:/usr/sbin:/usr/bin:/sbin:/bin" "$@"
}
