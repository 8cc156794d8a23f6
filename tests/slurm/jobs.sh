# shellcheck shell=bash
# Submitting, watching and disturbing jobs. Functions that begin with `expect` end the case with a message.

fail() {
  echo "    FAILED: $*"
  exit 1
}

# submit OPTIONS... SCRIPT ARGUMENTS...: prints the job's number. Logs go to log-JOB or, for arrays, log-JOB_TASK.
submit() {
  local output=log-%j
  [[ "$*" != *--array* ]] || output=log-%A_%a
  sbatch --parsable --chdir="$WORK" --output="$output" "$@" | cut -d";" -f1
}

log_of() { printf '%s/log-%s\n' "$WORK" "$1"; }

state_of() { scontrol show job "$1" 2>/dev/null | sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p' | head -n 1; }

# expect_state JOB STATE SECONDS
expect_state() {
  local end=$((SECONDS + $3)) state=""
  while [ $SECONDS -lt $end ]; do
    state="$(state_of "$1")"
    [ "$state" != "$2" ] || return 0
    case "$state" in
      FAILED | CANCELLED | TIMEOUT | NODE_FAIL | COMPLETED) fail "job $1 is $state, not $2" ;;
    esac
    sleep 0.2
  done
  fail "job $1 is $state, not $2, after $3 s"
}

# expect_log JOB PATTERN SECONDS
expect_log() {
  local end=$((SECONDS + $3))
  until grep -q -e "$2" "$(log_of "$1")" 2>/dev/null; do
    [ $SECONDS -lt $end ] || fail "the log of job $1 does not say '$2' after $3 s"
    sleep 0.1
  done
}

# ranks_of JOB: process ids of its ranks.
ranks_of() {
  local pid
  for pid in $(started_with "SLURM_JOB_ID=$1"); do
    if [ "/proc/$pid/exe" -ef "$PROGRAM" ]; then echo "$pid"; fi
  done
}

signal_ranks() {
  local pid
  for pid in $(ranks_of "$2"); do kill "-$1" "$pid" 2>/dev/null || true; done
}

# freeze JOB OUTPUT: stops its ranks as soon as there is a checkpoint, so that what follows hits the job in its middle,
# however fast the machine is. `signal_ranks CONT JOB` lets them go on.
freeze() {
  local end=$((SECONDS + 60))
  until compgen -G "$2/checkpoint/gen-*.json" >/dev/null; do
    [ "$(state_of "$1")" != COMPLETED ] || fail "job $1 finished without a checkpoint"
    [ $SECONDS -lt $end ] || fail "no checkpoint of job $1 after 60 s"
    sleep 0.02
  done
  signal_ranks STOP "$1"
  [ ! -e "$2/manifest.json" ] || fail "job $1 was finished before it could be disturbed: the job is too small for this machine"
}

# expect_same OUTPUT REFERENCE: the manifest, every file that it names, and nothing left over.
expect_same() {
  local file
  cmp -s "$1/manifest.json" "$2/manifest.json" || fail "$1/manifest.json differs from the undisturbed run's"
  for file in "$2"/*; do
    case "$(basename "$file")" in report.*) continue ;; esac
    cmp -s "$file" "$1/$(basename "$file")" || fail "$1/$(basename "$file") differs from the undisturbed run's"
  done
  [ ! -e "$1/checkpoint" ] || fail "$1/checkpoint was left behind"
}

# expect_resumed JOB: a later attempt began with the checkpoint of an earlier one, and the program took it up.
expect_resumed() {
  grep -q 'resuming from generation' "$(log_of "$1")" || fail "no attempt of job $1 took up a checkpoint"
  grep -q 'attempt [2-9].*block' "$(log_of "$1")" || fail "no attempt of job $1 found a checkpoint at its start"
}

# kill_node NODE JOB: the node's daemon, step daemons and ranks go at once, as when its power fails.
kill_node() {
  local pid parent victims
  victims=("$(cat "$CLUSTER/slurmd-$1.pid")")
  for pid in $(started_with "SLURM_JOB_ID=$2" "SLURMD_NODENAME=$1"); do
    parent="$(awk '{print $4}' "/proc/$pid/stat" 2>/dev/null || true)"
    if [ -n "$parent" ] && [ "$(name_of "$parent")" = slurmstepd ]; then victims+=("$parent"); fi
    victims+=("$pid")
  done
  kill -KILL "${victims[@]}" 2>/dev/null || true
}
