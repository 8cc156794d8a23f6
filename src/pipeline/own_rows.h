#pragma once

#include <vector>

#include "config/job_config.h"
#include "pipeline/layer_to_quantize.h"
#include "pipeline/team.h"
#include "quant/tensor_scale.h"

namespace gptq {

/// The rows of some layers that this rank of a team solves.
class OwnRows {
 public:
  /// A helper's weights come from the root. Collective. Borrows the layers.
  OwnRows(const Team& team, const std::vector<LayerToQuantize>& layers);
  OwnRows(const OwnRows&) = delete;  // its parts lie in itself
  OwnRows& operator=(const OwnRows&) = delete;
  OwnRows(OwnRows&&) = default;
  OwnRows& operator=(OwnRows&&) = default;

  /// One grid for each whole layer, found on its weight (per_channel: false). Collective.
  void give_tensor_scales(const Team& team, const std::vector<LayerToQuantize>& layers,
                          const QuantizationSection& section, const SolveColumns& columns, int threads);

  const std::vector<RowRange>& ranges() const { return ranges_; }
  const std::vector<RowsToSolve>& parts() const { return parts_; }  ///< one a range

 private:
  void receive_weights(const Team& team, const std::vector<LayerToQuantize>& layers);

  std::vector<RowRange> ranges_;
  std::vector<RowsToSolve> parts_;
  std::vector<HostTensor> received_;  ///< a helper's rows, of each layer
  std::vector<GivenScales> given_;    ///< of each layer
};

}  // namespace gptq
