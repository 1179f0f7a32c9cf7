#!/bin/sh
# A one-node Slurm on loopback, to test on: slurm_testbed.sh start | stop. Debian, as root.
set -eu
HOME_OF_IT=/var/tmp/gi2nnunet-slurm
export SLURM_CONF=$HOME_OF_IT/slurm.conf

stop() {
    for name in slurmd slurmctld munged; do
        [ -f "$HOME_OF_IT/$name.pid" ] && kill "$(cat "$HOME_OF_IT/$name.pid")" 2>/dev/null || true
        rm -f "$HOME_OF_IT/$name.pid"
    done
}

start() {
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge
    fi
    stop
    sleep 2
    rm -rf "$HOME_OF_IT/state" "$HOME_OF_IT/spool"
    mkdir -p "$HOME_OF_IT/state" "$HOME_OF_IT/spool"
    cat >"$SLURM_CONF" <<CONF
ClusterName=testbed
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# Also how long a job that is queued again must wait; two minutes by default.
AuthInfo=socket=$HOME_OF_IT/munge.socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
MpiDefault=none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
StateSaveLocation=$HOME_OF_IT/state
SlurmdSpoolDir=$HOME_OF_IT/spool
SlurmctldPidFile=$HOME_OF_IT/slurmctld.pid
SlurmdPidFile=$HOME_OF_IT/slurmd.pid
SlurmctldLogFile=$HOME_OF_IT/slurmctld.log
SlurmdLogFile=$HOME_OF_IT/slurmd.log
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    install -m 0400 -o munge -g munge /etc/munge/munge.key "$HOME_OF_IT/munge.key"
    chown munge:munge "$HOME_OF_IT"
    chmod 755 "$HOME_OF_IT"
    runuser -u munge -- munged --socket="$HOME_OF_IT/munge.socket" \
        --key-file="$HOME_OF_IT/munge.key" --pid-file="$HOME_OF_IT/munged.pid" \
        --log-file="$HOME_OF_IT/munged.log" --seed-file="$HOME_OF_IT/munged.seed"
    slurmctld
    slurmd
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        sinfo -h -o %T 2>/dev/null | grep -q idle && { echo "Slurm is up: export SLURM_CONF=$SLURM_CONF"; return; }
        sleep 1
    done
    echo "Slurm did not come up: see $HOME_OF_IT/*.log" >&2
    exit 1
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    *) echo "slurm_testbed.sh start | stop" >&2; exit 2 ;;
esac
