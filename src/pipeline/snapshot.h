#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "io/checkpoint_file.h"
#include "pipeline/safe_point.h"

namespace gptq {

/// This rank's part of the state as it was at a safe point, while the job changes its own. Its memory is kept
/// for the next one.
struct Snapshot {
  HostBuffer hidden, x;
  HostBuffer hidden_before;
  HostBuffer reference_hidden, reference_x;
  HostBuffer held_out;
  std::vector<std::int64_t> panels;
  std::vector<std::int64_t> cross;
  std::vector<QuantizedLayer> layers;
  RankState state;
  bool has_file = false;                    ///< this rank has something to keep
  std::vector<LayerStatistics> statistics;  ///< of the layers that this rank answers for
  double seconds = 0;

  void take(const SafePoint& point, Backend& backend);

 private:
  void take_sums(const SafePoint& point, Backend& backend);
  void take_samples(const Activations& activations);
  void take_activations(const SafePoint& point);
};

}  // namespace gptq
