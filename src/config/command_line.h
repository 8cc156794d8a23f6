#pragma once

#include <string>
#include <vector>

namespace gptq {

/// What the user typed.
struct CommandLine {
  enum class Command { plan, quantize, eval, inspect, verify } command = Command::quantize;
  std::string job;                     ///< YAML of plan, quantize, eval
  std::string path;                    ///< of inspect, verify
  std::vector<std::string> overrides;  ///< --set key=value, in order
  bool overwrite = false;              ///< quantize --overwrite, same as --set output.overwrite=true
  bool fresh = false;                  ///< quantize --fresh: start over, discarding the job's checkpoint
  std::string trace;                   ///< quantize --trace FILE: a timeline of all ranks
  std::string eval_model;              ///< eval --model DIR, same as --set eval.model=DIR
  std::vector<std::string> eval_data;  ///< eval --data FILE..., same as --set eval.data=[...]
  std::string json;                    ///< eval, plan, inspect, verify --json FILE: the result for programs
  int plan_ranks_per_node = 0;         ///< plan --ranks-per-node N; 0: all on one node
  double plan_node_memory = 0;         ///< plan --node-memory GB; 0: this machine's
  double plan_disk_speed = 1;          ///< plan --disk-speed GB/s
  double plan_device_memory = -1;      ///< plan --device-memory GB; 0: a CPU; -1: what is here
  int plan_ranks_per_device = 1;       ///< plan --ranks-per-device N
  double plan_device_rate = 0;         ///< plan --device-rate TFLOP/s; 0: not known
  int plan_ranks = 0;                  ///< plan --ranks N: answer for N ranks instead of the present ones
  std::string machine;    ///< plan, quantize --machine FILE|NAME: the description to forecast the time with
  std::string plan_grid;  ///< plan --grid SxR; empty: the best
  std::string plan_samples;  ///< plan --samples NxT: instead of the calibration file's
  std::string plan_scaling;  ///< plan --scaling FIRST..LAST: a forecast for each power of two
  std::string plan_csv;      ///< plan --csv FILE: of the scaling
  std::string plan_measure;  ///< plan --measure FILE: describe this machine there
};

/// Parses argv. `--help`, `--version`, `--reference` and mistakes print to stdout/stderr when `speak` (one
/// rank only) and set `exit_code`; the caller then ends. Returns true if there is a command to run.
bool parse_command_line(int argc, char** argv, bool speak, CommandLine& result, int& exit_code);

/// The overrides for read_job: those of --set, then those that --overwrite, --model and --data stand for.
std::vector<std::string> overrides_of(const CommandLine& line);

}  // namespace gptq
