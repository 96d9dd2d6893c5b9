#!/bin/bash
# Puts the tests' Python environment into a tree of Debian packages, built by and for its own
# Python, and the job that runs what a second disk brings. Called by mmdebstrap.
set -euo pipefail
root=$1
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
wheels=$root/var/tmp/wheels
mkdir "$wheels"
grep -E '^[^#]' constraints.txt | grep -vE '^(ruff|mypy|ast_serialize|librt)' >"$wheels/libraries"
# Compiled packages come as wheels for that Python; NetfilterQueue has none and is built below.
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
    --python-version "$version" --dest "$wheels" --requirement "$wheels/libraries"
chroot "$root" python3 -m venv /opt/venv
pip=(chroot "$root" /opt/venv/bin/python -m pip --isolated -qq install --disable-pip-version-check
    --no-index --find-links /var/tmp/wheels --no-build-isolation)
"${pip[@]}" setuptools wheel Cython
"${pip[@]}" --requirement /var/tmp/wheels/libraries
rm -rf "$wheels"
chroot "$root" /opt/venv/bin/python -c 'import iptc, netfilterqueue'

cat >"$root/usr/local/sbin/zerortt-job" <<'JOB'
#!/bin/bash
# The second disk is a tar file with the checkout and a script; what it says goes to ttyS1.
mkdir /job
tar -xf /dev/vdb -C /job
cd /job && bash ./run >/dev/ttyS1 2>&1
printf 'exit status %d\n' $? >/dev/ttyS1
systemctl poweroff
JOB
chmod +x "$root/usr/local/sbin/zerortt-job"
cat >"$root/etc/systemd/system/zerortt-job.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/zerortt-job

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable zerortt-job
