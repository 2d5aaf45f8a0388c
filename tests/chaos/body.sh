#!/bin/sh
# The body of a chaos job: tells its start and its end, each as one synced line, outside of Redis.
#   body.sh FILE SECONDS HOW [ID RUN]      HOW: an exit value (0-255) or the name of a signal (KILL, TERM …)
# A line: start|end  id  run  how  seconds since boot (proc(5), uptime: 0.01 s)  pid
file=$1 seconds=$2 how=$3 id=${4:-$JOBMILL_JOB_ID} run=${5:-$JOBMILL_RUN}

say() {
  read -r up _ < /proc/uptime
  echo "$1 $id $run $how $up $$" >> "$file" || exit 97  # one write of one line: O_APPEND keeps it whole
  sync "$file" || exit 98
}

say start
[ "$seconds" = 0 ] || sleep "$seconds"
say end
case $how in
  [0-9]*) exit "$how" ;;
  *) kill -s "$how" $$; sleep 60 ;;
esac
