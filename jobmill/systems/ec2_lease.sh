# The lease of an instance: it ends itself unless somebody renews.   sh ec2_lease.sh FOLDER SECONDS OWNER
#
# Whoever creates FOLDER/lease/renew (OWNER, over ssh) renews. Time is counted by uptime: the clock of a young machine
# jumps. An instance that is shut down from inside is terminated: it was launched so.
set -u
folder=$1 lease=$2 owner=$3
tick=10
[ "$lease" -ge 100 ] || tick=$(((lease + 9) / 10))

uptime() {
    read -r up rest </proc/uptime
    now=${up%%.*}
}

mkdir -p "$folder/lease"
uptime
renewed=$now tries=0
while :; do
    chown "$owner" "$folder/lease" 2>/dev/null # the user may be made later than this begins
    uptime
    if rm "$folder/lease/renew" 2>/dev/null </dev/null; then
        renewed=$now tries=0
    elif [ $((now - renewed)) -ge "$lease" ]; then
        tries=$((tries + 1))
        echo "jobmill: nobody has renewed the lease of $lease s, this instance ends (try $tries)" >&2
        if [ "$tries" -gt 3 ]; then
            poweroff -f
        else
            shutdown -h now || poweroff
        fi
    fi
    sleep "$tick"
done
