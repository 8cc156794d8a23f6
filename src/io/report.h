#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "quant/quantized_layer.h"

namespace gptq {

/// Everything worth knowing after a run; report.json and report.csv in the output directory.
struct Report {
  std::string version;
  std::string started;  ///< ISO 8601, UTC
  std::int64_t attempts = 1;  ///< 2 and more: an interrupted job that went on; phase_seconds are the last one's
  int ranks = 1;
  int threads = 1;
  std::string backend;
  std::string compute_dtype;
  JobConfig job;
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::string calibration_sha256;
  std::vector<LayerStatistics> layers;
  std::map<std::string, double> phase_seconds;  ///< load, forward, hessian, reduce, factor, solve, export, …
  double seconds = 0;
  std::int64_t peak_memory_bytes = 0;  ///< summed over ranks
  std::int64_t source_bytes = 0;
  std::int64_t output_bytes = 0;
  std::int64_t fallbacks = 0;
  std::string output;
};

/// Writes report.json and report.csv (by rename).
void write_report(const Report& report, const std::filesystem::path& directory);
/// The few lines shown at the end of a run.
std::string summary_text(const Report& report);

}  // namespace gptq
