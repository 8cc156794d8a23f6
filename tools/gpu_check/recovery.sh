# shellcheck shell=bash
# Jobs that die, and go on.

# kill_midway BACKEND OUTPUT GENERATION: a job that checkpoints at every safe point is killed when it has written so many.
kill_midway() {
  local backend="$1" output="$2" generation="$3" job_pid
  job_words "$backend" fp32 "$output" --set checkpoint.interval=0
  (exec "${JOB[@]}") >"$STEP/killed.log" 2>&1 & # the program itself in the end: no process lies between
  job_pid=$!
  until compgen -G "$output/checkpoint/gen-*$generation.json" >/dev/null; do
    kill -0 "$job_pid" 2>/dev/null || break
    sleep 0.02
  done
  kill -KILL "$job_pid" 2>/dev/null || true
  wait "$job_pid" 2>/dev/null || true
  tail -n 5 "$STEP/killed.log"
  [ ! -f "$output/manifest.json" ] || { failure "the job had ended before it could be killed"; return 1; }
  compgen -G "$output/checkpoint/gen-*.json" >/dev/null || { failure "the killed job left no checkpoint"; return 1; }
  ls "$output/checkpoint"
}

step_resume() {
  require_model
  undisturbed fp32
  kill_midway cuda "$WORK/killed" 3 || return 0
  cp -r "$WORK/killed" "$WORK/killed-twin"
  same killed "$(identity "$WORK/gpu-fp32")" job cuda fp32 "$WORK/killed"
  note "killed on the GPU after generation 3, went on there"
  same killed-twin "$(identity "$WORK/gpu-fp32")" ranks 2 job cuda fp32 "$WORK/killed-twin"
}

# other FROM TO: refused at first; with checkpoint.other_backend=accept a model as good as the undisturbed one.
other() {
  local from="$1" to="$2" output="$WORK/from-$1" code=0 mixed pure difference
  kill_midway "$from" "$output" 3 || return 0
  job "$to" fp32 "$output" >"$STEP/refused.log" 2>&1 || code=$?
  tail -n 3 "$STEP/refused.log"
  if [ "$code" -eq 0 ]; then
    failure "$to went on for $from without being allowed to"
    return 0
  fi
  grep -q other_backend "$STEP/refused.log" || failure "the refusal does not name checkpoint.other_backend: $(tail -n 1 "$STEP/refused.log")"
  job "$to" fp32 "$output" --set checkpoint.other_backend=accept
  mixed="$(perplexity cpu fp32 "$output")"
  pure="$(perplexity cpu fp32 "$WORK/gpu-fp32")"
  difference="$(within "$mixed" "$pure" 5e-3)" || failure "begun on $from, ended on $to: perplexity $mixed, undisturbed $pure"
  note "begun on $from: refused with code $code, then ended on $to when accepted; perplexity $(short "$mixed"), undisturbed $(short "$pure") (apart by $difference)"
  "$GPTQ_HPC" verify "$output" || failure "verify rejects it"
}

step_other_backend() {
  require_model
  undisturbed fp32
  other cuda cpu
  other cpu cuda
}
