# shellcheck shell=bash
# A Slurm of two nodes on this machine, entirely inside $CLUSTER: own configuration, munge key and socket, ports and logs.

cluster_missing() {
  local command missing=()
  for command in munged slurmctld slurmd sbatch scancel scontrol sinfo srun mpirun; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("$command")
  done
  [ "${#missing[@]}" -eq 0 ] || printf 'not installed: %s (tools/install_deps.sh --slurm)\n' "${missing[*]}"
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_ports() {
  local base
  for _ in {1..50}; do
    base=$((20000 + RANDOM % 10000))
    port_is_free "$base" && port_is_free $((base + 1)) && port_is_free $((base + 2)) && break
  done
  printf '%s\n' "$base"
}

# AuthInfo: a requeued job is held for cred_expire seconds (default 120; 5 is the least that Slurm takes).
# SlurmdTimeout: a dead node is noticed after so long. config_overrides: nodes may claim more cores than there are.
write_cluster_config() {
  local host user base
  host="$(hostname -s)" user="$(id -un)" base="$(free_ports)"
  cat >"$SLURM_CONF" <<CONF
ClusterName=gptqhpc
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$CLUSTER/state
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd-%n.pid
SlurmdSpoolDir=$CLUSTER/spool-%n
SlurmctldLogFile=$CLUSTER/slurmctld.log
SlurmdLogFile=$CLUSTER/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdTimeout=6
KillWait=3
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=4 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=4 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4 State=UP
CONF
}

start_node() { slurmd -N "$1" -f "$SLURM_CONF"; }

# start_cluster: says on stderr why not, and returns 1.
start_cluster() {
  export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$CLUSTER/slurm.conf"
  mkdir -p "$CLUSTER"/{munge,state,spool-node1,spool-node2}
  chmod 700 "$CLUSTER/munge"
  write_cluster_config
  (umask 077 && head -c 128 /dev/urandom >"$CLUSTER/munge/key")
  # --force: munge does not like directories below a world-writable one, such as /tmp.
  munged --force --num-threads=2 --key-file="$CLUSTER/munge/key" --socket="$CLUSTER/munge/socket" \
    --pid-file="$CLUSTER/munge/pid" --log-file="$CLUSTER/munge/log" --seed-file="$CLUSTER/munge/seed" \
    2>"$CLUSTER/munge/errors" || { echo "munged did not start: $(tail -n 2 "$CLUSTER/munge/errors")" >&2; return 1; }
  slurmctld -c -f "$SLURM_CONF" || { echo "slurmctld did not start: $(tail -n 2 "$CLUSTER/slurmctld.log")" >&2; return 1; }
  { start_node node1 && start_node node2; } \
    || { echo "slurmd did not start: $(tail -qn 2 "$CLUSTER"/slurmd-*.log)" >&2; return 1; }
  nodes_idle 30 || { echo "the nodes did not come up: $(sinfo -hN -o '%N %t' 2>&1 | tr '\n' ' ')" >&2; return 1; }
}

# nodes_idle SECONDS: both nodes are idle within that time.
nodes_idle() {
  local end=$((SECONDS + $1))
  until [ "$(sinfo -hN -o %t 2>/dev/null | grep -cx idle)" -eq 2 ]; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# started_with NAME=VALUE...: ids of the processes that began with all of these in their environment.
started_with() {
  local entry files=(/proc/[0-9]*/environ)
  for entry in "$@"; do
    # Processes come and go meanwhile, and some are not ours to look at.
    mapfile -t files < <(grep -lzxFs -e "$entry" -- "${files[@]}")
    [ "${#files[@]}" -gt 0 ] || return 0
  done
  printf '%s\n' "${files[@]}" | cut -d/ -f3
}

name_of() { cat "/proc/$1/comm" 2>/dev/null || true; }

# cluster_processes: daemons and jobs' processes of this cluster and no other.
cluster_processes() {
  local pid
  for pid in $(started_with "SLURM_CONF=$SLURM_CONF"); do
    case "$(name_of "$pid")" in
      slurmstepd | slurmd | slurmctld | munged) echo "$pid" ;;
      *) if grep -qzs '^SLURM_JOB_ID=' "/proc/$pid/environ"; then echo "$pid"; fi ;;
    esac
  done
}

stop_cluster() {
  local file pid
  [ -n "${SLURM_CONF:-}" ] || return 0
  timeout 10 scancel --state=RUNNING,PENDING,SUSPENDED --user="$(id -un)" >/dev/null 2>&1 || true
  timeout 10 scontrol shutdown >/dev/null 2>&1 || true
  for file in "$CLUSTER"/slurmctld.pid "$CLUSTER"/slurmd-*.pid "$CLUSTER"/munge/pid; do
    [ ! -s "$file" ] || kill "$(cat "$file")" 2>/dev/null || true
  done
  for _ in {1..25}; do
    [ -n "$(cluster_processes)" ] || break
    sleep 0.2
  done
  for pid in $(cluster_processes); do kill -KILL "$pid" 2>/dev/null || true; done
}
