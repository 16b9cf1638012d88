# a first user in a login session
set -x
jail run -- echo hello; echo st $?
jail run --memory 1m -- true; echo st $?
jail run --memory 4k -- true; echo st $?
jail run --pids-limit 1 -- true; echo st $?
time jail run --cpus 0.01 --wall-time 20s -- true; echo st $?
jail run --cpus 9 -- true; echo st $?
jail run --cpuset-cpus 0 -- true; echo st $?
jail run --cpuset-cpus 3 -- true; echo st $?
jail run --cgroup-parent /nope -- true; echo st $?
jail run --cgroup-parent / -- true; echo st $?
jail run --cgroup-parent /etc -- true; echo st $?
jail run --device-read-bps /dev/null:1m -- true; echo st $?
jail run --device-read-bps /dev/ubdc:1m -- true; echo st $?
jail run --blkio-weight 100 -- true; echo st $?
jail run --require memory=cgroup -- echo fine; echo st $?
env -u DBUS_SESSION_BUS_ADDRESS -u XDG_RUNTIME_DIR jail run --require memory=cgroup -- echo fine; echo st $?
DBUS_SESSION_BUS_ADDRESS=unix:path=/nope XDG_RUNTIME_DIR=/tmp jail run --json - -- true | cut -c1-2000; echo st $?
jail run --pause -- echo resumed & 
for i in $(seq 100); do P=$(jail stats --json --no-stream 2>/dev/null | python3 -c 'import sys,json
for l in sys.stdin: print([v for k,v in json.loads(l).items() if k in ("pid","jail")][0])' 2>/dev/null); [ -n "$P" ] && break; done; echo found $P
jail stats --no-stream
jail resume $P; wait %1; echo st $?
jail run -- sh -c 'sleep 5' & 
sleep 2; timeout -s INT 4 jail stats; echo st $?
wait
jail doctor; echo st $?
systemctl --user list-units --type scope --all | cat
find /sys/fs/cgroup -name 'jail*' 
