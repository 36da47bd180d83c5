#!/bin/sh
# Athanor: when this machine's Deployment is deleted it restarts, so that it can be wiped and is free again.
command -v systemctl >/dev/null || exit 0
mkdir -p /usr/local/sbin /etc/systemd/system /var/lib
umask 077
rm -rf /var/lib/athanor-restarted
cat >/usr/local/sbin/athanor-release <<'END'
#!/bin/sh
ask() {
  if command -v curl >/dev/null; then timeout 10 curl -sf "$1"; else timeout 10 wget -q -O - "$1"; fi
}
while true; do
  answer=
  for url in @URLS@; do
    answer=$(ask "$url") && break
  done
  # Once: a machine that boots its disk before the network would restart for ever.
  if [ "$answer" = restart ] && mkdir /var/lib/athanor-restarted; then
    exec systemctl reboot
  fi
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
systemctl enable athanor-release.service
systemctl restart --no-block athanor-release.service
