#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "pipeline/grid_search.h"

/// `gptq-hpc plan` beyond the present machine: forecasts on described ones.
namespace gptq {

/// What is asked for on the command line.
struct ForecastOptions {
  std::string machine;     ///< file or name
  int ranks = 0;           ///< 0: all places of one node
  int ranks_per_node = 0;  ///< 0: as many as a node has places
  std::string grid;        ///< "2x4"; empty: what the job's parallel.* ask for, else the best
  std::string samples;     ///< "128x2048": instead of the calibration file's
};

/// Answers from shapes alone: where model.path holds no weights, from its config.json.
Forecast forecast_job(const JobConfig& job, const ForecastOptions& options);

/// The same for 1, 2, 4, ... ranks within "1..1024", one forecast each; those that do not fit are left out,
/// with a note in the log.
std::vector<Forecast> forecast_scaling(const JobConfig& job, const ForecastOptions& options,
                                       const std::string& range);
/// ranks,stages,replicas,seconds,speedup,efficiency,limited_by,most_idle,between_nodes_bytes. Against the
/// first row's ranks.
std::string scaling_csv(const std::vector<Forecast>& forecasts);
std::string to_json(const Forecast& forecast);

/// The job's model as planning sees it: by its files, or by its config.json where there are none, or where
/// the program knows its family's shapes alone.
ModelShape shape_of_source(const JobConfig& job);

/// Sample lengths of "128x2048". Throws UsageError.
std::vector<std::int64_t> parse_samples(const std::string& text);

/// The lengths of the samples that the job would use; none for round-to-nearest.
std::vector<std::int64_t> lengths_of_samples(const JobConfig& job, std::int64_t vocab_size);

}  // namespace gptq
