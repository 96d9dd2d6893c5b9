# shellcheck shell=bash
# Where built images are kept: outside the checkout, for all checkouts alike.
cache=${ZERORTT_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nfq-zerortt-vm}
mkdir -p "$cache"
