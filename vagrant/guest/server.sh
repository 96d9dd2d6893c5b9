#!/bin/bash
# The server: nginx on ports 80 and 8080, the demonstration's program on 9000, 9001 and 9002, and
# a kernel that does Fast Open. Neither knows anything of the service.
set -euo pipefail
# shellcheck source=vagrant/guest/lib.sh
source /vagrant/guest/lib.sh

# Two packages have it; either will do.
command -v nginx >/dev/null || need nginx-light
need python3

# Take data in a SYN that carries the right cookie: every listener that begins after this.
put /etc/sysctl.d/61-zerortt-server.conf <<<'net.ipv4.tcp_fastopen = 0x402' || true
sysctl --quiet --load=/etc/sysctl.d/61-zerortt-server.conf

install -D -m 755 /vagrant/guest/demo_server.py /usr/local/lib/zerortt/demo_server.py
put /etc/systemd/system/zerortt-demo-server.service <<'END' || true
[Unit]
Description=The server of zerortt-demo
After=network.target

[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/zerortt/demo_server.py 9000 9001 9002
DynamicUser=yes
Restart=on-failure

[Install]
WantedBy=multi-user.target
END

# 2 MB that no compression makes smaller, and what they must be at the other end.
if [[ ! -e /var/www/html/2mb.sha256 ]]; then
    head -c 2000000 /dev/urandom >/var/www/html/2mb
    (cd /var/www/html && sha256sum 2mb >2mb.sha256)
fi
put /etc/nginx/sites-available/zerortt <<'END' || true
server {
    listen 80 default_server;
    listen [::]:80 default_server;
    listen 8080 default_server;
    listen [::]:8080 default_server;
    root /var/www/html;
}
END
rm -f /etc/nginx/sites-enabled/default
ln -sf ../sites-available/zerortt /etc/nginx/sites-enabled/zerortt

systemctl daemon-reload
systemctl --quiet enable nginx zerortt-demo-server
systemctl restart nginx zerortt-demo-server
for _ in {1..60}; do
    [[ -z $(ss -Hltn 'sport = :9002') ]] || break
    sleep 1
done
say "listening: $(ss -Hltn 'sport = :80 or sport = :8080 or sport >= :9000' | awk '{ print $4 }' | paste -sd ' ')"
