jail stats --no-stream; echo "rc $?"
jail run -- sh -c 'sleep 1 & python3 -c "
import time
x=bytearray(50<<20)
e=time.time()+8
while time.time()<e: pass"' & 
jail run -- perl -e '$0="\x1b[31mX\n"; open F,">/proc/self/comm"; print F "a\x1b[2Jb"; close F; sleep 8' & 
sleep 2.5
jail stats --no-stream; echo "rc $?"
jail stats --json --interval 0.5 | head -3; echo "rc ${PIPESTATUS[@]}"
timeout -s INT 3 jail stats; echo "rc $?"
pid=$(jail stats --json --no-stream | python3 -c 'import json,sys;print(json.loads(sys.stdin.readline())["jail"])')
jail pause $pid; echo "rc $?"
jail pause 1; echo "rc $?"
jail stats x;jail stats --interval 0;jail stats 1
jail run --pause -- true; echo "rc $?"
jail pause; echo $?
jail stats --interval 3 $pid; echo "rc $?"
wait
