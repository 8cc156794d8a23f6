# shellcheck shell=bash
# One function a case; run.sh runs each in a shell of its own. $JOB is the job file, $REFERENCE the undisturbed output.

quantize() { echo "$REPO_DIR/slurm/quantize.sh" "$JOB" --set "output.path=$WORK/$1" --set checkpoint.interval=0.2; }

case_runs_to_completion() {
  local job
  # shellcheck disable=SC2046
  job="$(submit --ntasks=2 $(quantize complete))"
  expect_state "$job" COMPLETED 60
  expect_same "$WORK/complete" "$REFERENCE"
  grep -q 'rank(s) on node. with ' "$(log_of "$job")" || fail "the log does not name the launcher"
}

case_two_nodes_with_mpirun() {
  local job
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_LAUNCHER=mpirun submit --nodes=2 --ntasks-per-node=2 $(quantize two-nodes))"
  expect_state "$job" COMPLETED 60
  grep -q '4 rank(s) on node\[1-2\] with mpirun' "$(log_of "$job")" || fail "the job did not run on two nodes"
  expect_same "$WORK/two-nodes" "$REFERENCE"
}

# The array's last task has the array's own id: interrupting it must not bring back the others.
case_array_of_recipes() {
  local job task recipe
  recipe="$JOB --set checkpoint.interval=0.2 --set"
  cat >"$WORK/recipes.txt" <<RECIPES
# bits  output
$recipe quantization.bits=4 --set "output.path=$WORK/array-w4"

$recipe quantization.bits=3 --set "output.path=$WORK/array-w3"
RECIPES
  job="$(submit --array=1-2 --ntasks=1 "$REPO_DIR/slurm/array.sh" "$WORK/recipes.txt")"
  freeze "$job" "$WORK/array-w3"
  scancel --batch --signal=USR1 "${job}_2"
  expect_log "${job}_2" 'SIGUSR1: asking' 20
  signal_ranks CONT "$job"
  for task in 1 2; do expect_state "${job}_$task" COMPLETED 90; done
  expect_resumed "${job}_2"
  expect_same "$WORK/array-w4" "$REFERENCE"
  expect_same "$WORK/array-w3" "$REFERENCE_W3"
  if grep -q 'attempt 2' "$(log_of "${job}_1")"; then fail "the other task was requeued as well"; fi
}

case_walltime_warning_requeues() {
  local job
  # shellcheck disable=SC2046
  job="$(submit --time=1 --signal=B:USR1@55 --ntasks=2 $(quantize walltime))"
  freeze "$job" "$WORK/walltime"
  expect_log "$job" 'SIGUSR1: asking' 60
  signal_ranks CONT "$job"
  expect_log "$job" 'stopped early with a checkpoint' 30
  expect_log "$job" 'requeueing job' 5
  expect_log "$job" 'attempt 2' 60
  expect_state "$job" COMPLETED 60
  expect_resumed "$job"
  expect_same "$WORK/walltime" "$REFERENCE"
}

# Two nodes, then one: the same job goes on with fewer ranks and another launcher.
case_scancel_signal_and_other_nodes() {
  local job
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_LAUNCHER=mpirun submit --nodes=2 --ntasks-per-node=2 $(quantize signal))"
  freeze "$job" "$WORK/signal"
  scancel --batch --signal=USR1 "$job"
  expect_log "$job" 'SIGUSR1: asking' 20
  signal_ranks CONT "$job"
  expect_log "$job" 'requeueing job' 30
  expect_state "$job" PENDING 20
  scancel "$job"
  # shellcheck disable=SC2046
  job="$(submit --ntasks=1 $(quantize signal))"
  expect_state "$job" COMPLETED 60
  expect_log "$job" 'attempt 1 .*block' 1
  expect_same "$WORK/signal" "$REFERENCE"
}

# Without --batch the signal goes to job steps: under srun these are the ranks themselves.
case_scancel_signal_to_steps() {
  local job
  if ! srun --mpi=list 2>&1 | grep -qw pmix; then
    echo "    not tried: this Slurm has no --mpi=pmix"
    return 0
  fi
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_LAUNCHER=srun submit --ntasks=2 $(quantize steps))"
  freeze "$job" "$WORK/steps"
  scancel --signal=USR1 "$job"
  signal_ranks CONT "$job"
  expect_log "$job" 'stopped early with a checkpoint' 30
  expect_log "$job" 'attempt 2' 60
  expect_state "$job" COMPLETED 60
  expect_resumed "$job"
  expect_same "$WORK/steps" "$REFERENCE"
}

# Ranks that do not answer the warning are given up before the time limit comes.
case_ranks_that_do_not_stop() {
  local job
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_STOP_SECONDS=2 submit --ntasks=2 $(quantize deaf))"
  freeze "$job" "$WORK/deaf"
  scancel --batch --signal=USR1 "$job"
  expect_log "$job" 'did not stop within 2 s' 20
  expect_log "$job" 'attempt 2' 60
  expect_state "$job" COMPLETED 60
  expect_resumed "$job"
  expect_same "$WORK/deaf" "$REFERENCE"
}

# --fresh and --overwrite are for the first attempt: the second one must not throw away what that has done.
case_scontrol_requeue() {
  local job
  # shellcheck disable=SC2046
  job="$(submit --ntasks=2 $(quantize requeue) --fresh --overwrite)"
  freeze "$job" "$WORK/requeue"
  scontrol requeue "$job"
  expect_log "$job" 'attempt 2' 60
  expect_state "$job" COMPLETED 60
  expect_resumed "$job"
  expect_same "$WORK/requeue" "$REFERENCE"
}

# The node of the batch script, and the other one.
case_death_of_a_node() {
  local job node
  for node in node2 node1; do
    # shellcheck disable=SC2046
    job="$(GPTQ_HPC_LAUNCHER=mpirun submit --nodes=2 --ntasks-per-node=1 $(quantize "death-$node"))"
    freeze "$job" "$WORK/death-$node"
    kill_node "$node" "$job"
    signal_ranks CONT "$job"
    expect_left_node "$job"
    start_node "$node"
    expect_log "$job" 'attempt 2' 90
    expect_state "$job" COMPLETED 90
    expect_resumed "$job"
    expect_same "$WORK/death-$node" "$REFERENCE"
  done
}

# expect_left_node JOB: the job is over or waits, by its own script or by Slurm, once the dead node was noticed.
expect_left_node() {
  local end=$((SECONDS + 60)) state=""
  while [ $SECONDS -lt $end ]; do
    state="$(state_of "$1")"
    [ "$state" != PENDING ] || return 0
    [ "$state" != FAILED ] || fail "job $1 failed instead of coming back"
    sleep 0.5
  done
  fail "job $1 is $state 60 s after the death of a node"
}

# Every attempt's ranks are killed as soon as they are there. One whose ranks were never launched counts as well.
case_gives_up_without_progress() {
  local job end=$((SECONDS + 120))
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_MAX_STALLED=2 submit --ntasks=2 $(quantize stalled) --set checkpoint.interval=1e6)"
  until [ "$(state_of "$job")" = FAILED ]; do
    [ "$(state_of "$job")" != COMPLETED ] || fail "the job finished before it could be disturbed"
    [ $SECONDS -lt $end ] || fail "the job goes on after 120 s without progress"
    signal_ranks KILL "$job"
    sleep 0.05
  done
  expect_log "$job" 'attempt 2' 1
  expect_log "$job" 'giving up: 2 attempt' 5
}

# srun has ended with 0 after "task 0 launch failed: Unspecified error". The stub stands for it in the first attempt.
case_launcher_that_ends_well_without_a_model() {
  local job stubs="$WORK/stubs"
  mkdir -p "$stubs"
  cat >"$stubs/mpirun" <<STUB
#!/usr/bin/env bash
if mkdir "$stubs/tried" 2>/dev/null; then echo "stub: task launch failed" >&2; exit 0; fi
exec $(command -v mpirun) "\$@"
STUB
  chmod +x "$stubs/mpirun"
  # shellcheck disable=SC2046
  job="$(PATH="$stubs:$PATH" GPTQ_HPC_LAUNCHER=mpirun submit --ntasks=2 $(quantize unlaunched))"
  expect_log "$job" 'no finished model: it did not start the ranks' 30
  expect_log "$job" 'requeueing job' 5
  expect_log "$job" 'attempt 2' 60
  expect_state "$job" COMPLETED 60
  expect_same "$WORK/unlaunched" "$REFERENCE"
}

case_evaluates() {
  local job
  job="$(submit --ntasks=2 "$REPO_DIR/slurm/eval.sh" "$JOB" --model "$REFERENCE")"
  expect_state "$job" COMPLETED 60
  expect_log "$job" 'perplexity [0-9]' 1
}

case_mistakes_are_told_early() {
  local job
  job="$(submit --ntasks=1 "$REPO_DIR/slurm/quantize.sh" "$WORK/absent.yaml")"
  expect_state "$job" FAILED 30
  expect_log "$job" 'job file .*absent.yaml cannot be read' 5
  echo "$JOB" >"$WORK/one-recipe.txt"
  job="$(submit --array=2 --ntasks=1 "$REPO_DIR/slurm/array.sh" "$WORK/one-recipe.txt")"
  expect_state "${job}_2" FAILED 30
  expect_log "${job}_2" 'task 2 has no recipe' 5
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_PROGRAM="$WORK/absent" submit --ntasks=1 $(quantize absent))"
  expect_state "$job" FAILED 30
  expect_log "$job" 'absent is not an executable' 5
  # shellcheck disable=SC2046
  job="$(GPTQ_HPC_LAUNCHER=poe submit --ntasks=1 $(quantize absent))"
  expect_state "$job" FAILED 30
  expect_log "$job" 'may be auto, srun or mpirun' 5
  job="$(GPTQ_HPC_VENV="$WORK/no-venv" submit "$REPO_DIR/slurm/prepare.sh" --help)"
  expect_state "$job" FAILED 30
  expect_log "$job" 'no-venv holds no bin/python3' 5
}
