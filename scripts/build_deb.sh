#!/bin/bash
# Builds the Debian package for the Debian that this runs on.
#
#   scripts/build_deb.sh [DIR]    into DIR; dist/ if none is given
#
# The source package is put together in build/deb from what is needed of the checkout, with
# packaging/debian as its debian/. Installs what Debian's tools need first. Libraries come by pip
# from where it is configured to; PIP_NO_INDEX and PIP_FIND_LINKS let it do without a network.
set -euo pipefail
into=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../dist}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=scripts/report.sh
source scripts/report.sh
# shellcheck source=scripts/debian.sh
source scripts/debian.sh

mapfile -t missing < <(missing_of debhelper dpkg-dev gcc libc6-dev libnetfilter-queue-dev \
    python3-dev python3-venv)
if ((${#missing[@]} > 0)); then
    prepare_apt deb "${missing[@]}"
    apt_install "${missing[@]}"
fi

version=$(sed -nE 's/^__version__ = "(.*)"$/\1/p' nfq_zerortt/__init__.py)
[[ -n $version ]] || fail 'nfq_zerortt/__init__.py has no __version__'

# shellcheck disable=SC2154 # log is report.sh's
# Two builds at a time, as by two tests, shall not meet: each has a directory of its own.
mkdir -p build "$into"
work=$(mktemp -d build/deb.XXXXXX)
trap 'rm -rf "$log" "$work"' EXIT
source_tree=$work/nfq-zerortt-$version
mkdir "$source_tree"
cp -r nfq_zerortt iptables_rules systemd docs scripts \
    setup.cfg pyproject.toml constraints.txt README.md CHANGELOG.md LICENSE "$source_tree"
cp -r packaging/debian "$source_tree/debian"
find "$source_tree" -name __pycache__ -prune -exec rm -rf {} +
find "$source_tree" -type d -exec chmod 755 {} +
find "$source_tree" -type f ! -path "$source_tree/debian/rules" -exec chmod 644 {} +
cat >"$source_tree/debian/changelog" <<END
nfq-zerortt ($version) unstable; urgency=medium

  * See CHANGELOG.md.

 -- $(sed -n 's/^Maintainer: //p' packaging/debian/control)  $(date -R -r nfq_zerortt/__init__.py)
END

say "building nfq-zerortt $version"
export DEB_BUILD_OPTIONS="noautodbgsym ${DEB_BUILD_OPTIONS:-}"
# What it needs was seen to above: build-essential would bring a C++ compiler, too.
(cd "$source_tree" && logged dpkg-buildpackage dpkg-buildpackage --build=binary \
    --no-check-builddeps --unsigned-changes --unsigned-buildinfo)
for package in "$work"/*.deb; do
    # apt reads it as another user.
    install -m 644 "$package" "$into/"
    say "$into/${package##*/}"
done
