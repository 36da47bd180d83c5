#!/bin/sh
# Athanor: when this machine's Deployment is deleted it restarts, so that it can be wiped and is free again.
command -v systemctl >/dev/null || exit 0
mkdir -p /usr/local/sbin /etc/systemd/system
cat >/usr/local/sbin/athanor-release <<'END'
#!/bin/sh
ask() {
  if command -v curl >/dev/null; then timeout 10 curl -sf "$1"; else timeout 10 wget -q -O - "$1"; fi
}
while true; do
  for url in @URLS@; do
    [ "$(ask "$url")" = restart ] && exec systemctl reboot
  done
  sleep 20
done
END
chmod 700 /usr/local/sbin/athanor-release
cat >/etc/systemd/system/athanor-release.service <<'END'
[Unit]
Description=Restarts this machine when its Athanor Deployment is deleted
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/local/sbin/athanor-release
Restart=always
RestartSec=20
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --now --no-block athanor-release.service
