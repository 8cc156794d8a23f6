#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// What a phase did on rank 0, and what the machine could have done in its time. The work is that of the same
/// rank: its samples' products, its rows, all of the factors.
struct PhaseFigures {
  double seconds = 0;
  double flops = 0;  ///< 0: none worth counting
  double bytes = 0;  ///< read, written or summed; 0: not counted
  double limit = 0;  ///< FLOP/s of large matrix products of the phase's type on this rank; 0: not measured

  double flops_per_second() const { return seconds > 0 ? flops / seconds : 0; }
  double bytes_per_second() const { return seconds > 0 ? bytes / seconds : 0; }
  double share_of_limit() const { return limit > 0 ? flops_per_second() / limit : 0; }
};

/// Predicted and actual peak of the rank that needs most; 0: no such memory.
struct MemoryFigures {
  std::int64_t predicted_bytes = 0;
  std::int64_t actual_bytes = 0;
};

/// What the whole quantized model makes of the calibration samples that no Hessian has seen, and what the
/// source model does (where there is a rotation: in its rotated form). The same on any number of ranks.
struct HeldOutFigures {
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::int64_t predictions = 0;  ///< each token but the first of a sample
  double perplexity = 0;         ///< exp(mean of -log p(token | those before it)); NaN without predictions
  double source_perplexity = 0;
  double relative_hidden_error = 0;  ///< Σ|h_q − h|² / Σ|h|², h: the residual stream behind the last block

  /// Without predictions there is nothing to be infinite.
  bool is_finite() const;
};

/// What a simulation of the job had said of rank 0.
struct PredictedPhases {
  std::string machine;  ///< its description and where that comes from; empty: none was asked
  std::map<std::string, double> seconds;  ///< by phase; "start" lies before an attempt's time
};

/// A rank's share of an attempt.
struct RankTimes {
  double seconds = 0;
  double waited_seconds = 0;  ///< for other ranks

  double idle_share() const { return seconds > 0 ? waited_seconds / seconds : 0; }
};

/// Everything worth knowing after a run; report.json and report.csv in the output directory.
struct Report {
  std::string version;
  std::string started;            ///< ISO 8601, UTC
  bool already_finished = false;  ///< the output was there: nothing below was done
  std::int64_t attempts = 1;      ///< 2 and more: an interrupted job that went on; phases are the last one's
  int ranks = 1;
  int threads = 1;
  std::string backend;  ///< "cpu", "cuda"
  std::string device;   ///< what computes, with the versions of its driver and libraries
  std::string compute_dtype;
  JobConfig job;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::string calibration_sha256;
  std::vector<LayerStatistics> layers;
  std::optional<HeldOutFigures> held_out;      ///< none: no sample is held out
  std::map<std::string, PhaseFigures> phases;  ///< load, forward, hessian, reduce, factor, solve, export, …
  std::vector<RankTimes> rank_times;           ///< of every rank, in this attempt
  PredictedPhases predicted;                   ///< of the whole job
  double seconds = 0;                          ///< of all attempts
  double attempt_seconds = 0;                  ///< of this one
  double matrix_rate = 0;                      ///< FLOP/s of large products of the compute type, one rank
  std::string activations;                     ///< device, host or disk: where they lay
  std::int64_t peak_memory_bytes = 0;          ///< host, summed over ranks
  MemoryFigures host_memory;
  MemoryFigures device_memory;
  std::int64_t source_bytes = 0;
  std::int64_t output_bytes = 0;
  std::int64_t fallbacks = 0;
  std::string output;

  /// Of phase `name`, 0 if there was none.
  double phase_seconds(const std::string& name) const;
  /// This attempt without waiting for the model's blocks and for the export.
  double quantization_seconds() const;
};

/// Writes report.json and report.csv (by rename).
void write_report(const Report& report, const std::filesystem::path& directory);
/// The phases as a table, a line a row, in the order of the work: seconds, arithmetic or bytes, rate, share
/// of the machine's.
std::vector<std::string> phase_table(const Report& report);
/// The phases beside what was predicted of them; nothing where nothing was, or an earlier attempt did a part.
std::vector<std::string> comparison_table(const Report& report);
/// "perplexity 21.30, source 19.00, error of the last hidden states 1.20 %"
std::string held_out_text(const HeldOutFigures& figures);
/// The few lines shown at the end of a run.
std::string summary_text(const Report& report);

}  // namespace gptq
