# shellcheck shell=bash
# One attempt of a job that may be interrupted: count it, start the ranks, hand on Slurm's warning, come back or not.

# The id of an array's last task is that of the whole array, so the task is named by both its numbers.
job_name() {
  if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    printf '%s_%s\n' "$SLURM_ARRAY_JOB_ID" "$SLURM_ARRAY_TASK_ID"
  else
    printf '%s\n' "$SLURM_JOB_ID"
  fi
}

state_file() {
  printf '%s/%s\n' "${GPTQ_HPC_STATE_DIR:-${SLURM_SUBMIT_DIR:-$PWD}/.gptq-hpc-slurm}" "$(job_name)"
}

# begin_attempt: compares the checkpoint with what the attempt before found at its start. Every way back to here counts,
# also a node's death or an administrator's requeue. Sets progress, first_progress and stalled.
begin_attempt() {
  local file known=""
  file="$(state_file)"
  progress="$(progress_of "$checkpoint")"
  first_progress="$progress"
  stalled=0
  if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -r "$file" ]; then
    { read -r stalled && read -r first_progress && read -r known; } <"$file" || true
    if [ "$known" = "$progress" ]; then stalled=$((stalled + 1)); else stalled=0; fi
  fi
  log "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) of job $(job_name); $checkpoint: $progress"
  write_state
}

forget_state() {
  rm -f "$(state_file)"
  rmdir "$(dirname "$(state_file)")" 2>/dev/null || true
}

write_state() {
  local file
  file="$(state_file)"
  mkdir -p "$(dirname "$file")" || die "cannot make $(dirname "$file"); set GPTQ_HPC_STATE_DIR to a place that all nodes can write to"
  printf '%s\n' "$stalled" "$first_progress" "$progress" >"$file.new" && mv "$file.new" "$file" \
    || die "cannot write $file; set GPTQ_HPC_STATE_DIR to a place that all nodes can write to"
}

# may_come_back: whether another attempt is worth it, counting the present one.
may_come_back() {
  local attempts="$stalled" now
  now="$(progress_of "$checkpoint")"
  if [ "$now" = "$progress" ]; then attempts=$((attempts + 1)); else attempts=0; fi
  log "$checkpoint: $now (at the start of this attempt: $progress)"
  [ "$attempts" -lt "$GPTQ_HPC_MAX_STALLED" ] && return 0
  log "giving up: $attempts attempt(s) in a row without a newer checkpoint (GPTQ_HPC_MAX_STALLED); longer attempts or" \
    "a smaller checkpoint.interval help. The checkpoint stays: submit again to go on" >&2
  forget_state
  return 1
}

# come_back CODE: requeues the job, or ends with that code where it may not.
come_back() {
  may_come_back || exit "$1"
  trap '' TERM USR1
  log "requeueing job $(job_name)"
  if ! scontrol requeue "$(job_name)"; then
    log "Slurm did not requeue the job (sbatch --no-requeue, or the site forbids it); submit it again to go on" >&2
    exit "$1"
  fi
  exit 0
}

# Slurm's warning, or a person's `scancel --batch --signal=USR1`. srun and mpirun pass it on to all ranks. Should they not
# end in time the job is requeued from outside, before the time limit ends it for good. Passed on once only: a second
# signal would end the ranks at once, without a checkpoint.
on_warning() {
  warned=true interrupted=true
  [ -n "$launcher_pid" ] || return 0
  [ -z "$watch_pid" ] || return 0
  log "SIGUSR1: asking all ranks to stop with a checkpoint"
  kill -USR1 "$launcher_pid" 2>/dev/null || true
  watch_stop &
  watch_pid=$!
}

watch_stop() {
  local sleeper
  sleep "$GPTQ_HPC_STOP_SECONDS" &
  sleeper=$!
  trap 'kill "$sleeper"; exit' TERM
  wait "$sleeper"
  log "the ranks did not stop within $GPTQ_HPC_STOP_SECONDS s (GPTQ_HPC_STOP_SECONDS); the last checkpoint has to do" >&2
  come_back 75
}

# SIGTERM comes when Slurm ends the job: scancel, the time limit, preemption, scontrol requeue. Slurm has told the ranks
# itself and decides whether the job comes back.
on_end() {
  ended=true interrupted=true
  log "SIGTERM: Slurm ends this job"
}

# run_ranks COMMAND...: waits for it through all signals, each of which ends a `wait`; its exit code is left in `code`.
run_ranks() {
  local status
  "$@" &
  launcher_pid=$!
  ! $warned || on_warning
  interrupted=true
  while $interrupted; do
    interrupted=false status=0
    wait "$launcher_pid" || status=$?
    # 127: the signal came when the code was there already.
    [ "$status" -eq 127 ] && [ "$code" -ne 0 ] || code=$status
  done
  [ -z "$watch_pid" ] || kill "$watch_pid" 2>/dev/null || true
}

# attempt OPTIONS...: the whole attempt; never returns.
attempt() {
  local launcher=() arguments=()
  warned=false ended=false interrupted=false launcher_pid="" watch_pid="" code=0
  trap on_warning USR1
  trap on_end TERM
  begin_attempt
  if [ "$stalled" -ge "$GPTQ_HPC_MAX_STALLED" ]; then
    log "giving up: $stalled attempts in a row were interrupted without a newer checkpoint (GPTQ_HPC_MAX_STALLED)" >&2
    forget_state
    exit 75
  fi
  once_only "$@"
  choose_launcher
  $warned && come_back 75
  run_ranks "${launcher[@]}" "$GPTQ_HPC_PROGRAM" quantize "${arguments[@]}"
  conclude "${arguments[@]}"
}

# once_only OPTIONS...: sets `arguments`; --fresh and --overwrite throw away what earlier attempts have done, so they hold
# until there is something of this job's own.
once_only() {
  local argument
  arguments=()
  for argument in "$@"; do
    case "$argument" in
      --fresh | --overwrite) [ "$progress" = "$first_progress" ] || continue ;;
    esac
    arguments+=("$argument")
  done
}

# finished_model OPTIONS...: whether a complete output lies there, by its manifest, which the program writes last. With
# --overwrite the one of an earlier job does not count.
finished_model() {
  local manifest argument
  manifest="$(job_value output path "$@")/manifest.json"
  [ -e "$manifest" ] || return 1
  for argument in "$@"; do
    if [ "$argument" = --overwrite ] && [ ! "$manifest" -nt "$(state_file)" ]; then return 1; fi
  done
}

# conclude OPTIONS...: an end of the launcher with 0 is not believed without a model: srun has been seen to end so when it could
# not launch the ranks.
conclude() {
  if [ "$code" -eq 0 ] && ! finished_model "$@"; then
    log "the launcher ended with exit code 0, but there is no finished model: it did not start the ranks" >&2
    code=1
  fi
  case "$code" in
    0)
      log "finished"
      forget_state
      exit 0
      ;;
    75) log "stopped early with a checkpoint" ;;
    2 | 3 | 4 | 5 | 7 | 8)
      log "failed with exit code $code, which another attempt would not change; the message is above" >&2
      forget_state
      exit "$code"
      ;;
    *) log "ended with exit code $code: a rank, node or launcher died; going on from the last checkpoint" >&2 ;;
  esac
  if $ended; then
    log "not requeueing: Slurm ended the job and brings it back itself if it was asked to"
    exit "$code"
  fi
  come_back "$code"
}
