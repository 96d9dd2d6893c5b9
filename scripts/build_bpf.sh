#!/bin/bash
# Compiles the programs of the kernel data path. Needs clang, llvm and libbpf-dev.
#
#   scripts/build_bpf.sh          into the package, and notes beside it what it was built from
#   scripts/build_bpf.sh DIR      into DIR; the package is left alone
#
# The same sources and the same clang give the same bytes, wherever they lie.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../nfq_zerortt/kernel/bpf"

into=${1:-.}
object=$into/zerortt.bpf.o

for tool in clang llvm-strip; do
    command -v "$tool" >/dev/null || {
        printf '%s is missing: apt-get install clang llvm libbpf-dev\n' "$tool" >&2
        exit 1
    }
done

# The headers of the kernel's interface include <asm/…>, which Debian keeps by architecture.
clang -target bpfel -mcpu=v3 -O2 -g -Wall -Wextra -Werror -ffile-prefix-map="$PWD"=. \
    -idirafter "/usr/include/$(uname -m)-linux-gnu" -c zerortt.bpf.c -o "$object"
# DWARF is for debuggers only. BTF, which describes the maps to libbpf, stays.
llvm-strip --strip-debug "$object"

# tests/test_bpf_built.py sees by this whether the object is the one of these sources.
{
    printf '# Written by scripts/build_bpf.sh.\n'
    clang --version | sed -nE 's/^.*(clang version [0-9.]+).*$/# \1/p'
    sha256sum zerortt.bpf.c zerortt.h
    printf '%s  zerortt.bpf.o\n' "$(sha256sum <"$object" | cut -d ' ' -f 1)"
} >"$into/zerortt.built"
