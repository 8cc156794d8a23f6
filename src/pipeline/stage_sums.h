#pragma once

#include <functional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "comm/device_collectives.h"
#include "pipeline/activations.h"
#include "pipeline/phase_clock.h"
#include "pipeline/safe_point.h"
#include "quant/hessian.h"

namespace gptq {

/// One stage group's input, as it lies in this rank's activations.
struct StageInput {
  StageInput(Activations& activations_, Activations* reference_, std::int64_t width_)
      : activations(activations_), reference(reference_), step_width(width_), width(width_) {}
  /// Some columns of an input that holds those of several groups.
  StageInput(Activations& activations_, Activations* reference_, std::int64_t step_width_,
             std::int64_t first_column_, std::int64_t width_)
      : activations(activations_),
        reference(reference_),
        step_width(step_width_),
        first_column(first_column_),
        width(width_) {}

  Matrix of(const Matrix& x) const { return x.cols_from(first_column, width); }  ///< x: of the step

  Activations& activations;
  Activations* reference;         ///< the same chunks in the full-precision stream; null: there is none
  std::int64_t step_width;        ///< columns of x in the activations
  std::int64_t first_column = 0;  ///< the group's are [first_column, first_column + width)
  std::int64_t width;
  bool weighted = false;   ///< a row counts by the inverse square of the residual stream (token_weight)
  bool corrected = false;  ///< C is needed
  /// residual: the reference has passed the group's layer already.
  CorrectionTarget target = CorrectionTarget::output;
  std::span<const float> bias;           ///< of that layer
  std::vector<float> maximum;            ///< this rank's column magnitudes of x
  std::vector<float> reference_maximum;  ///< and of the reference's x, for CorrectionTarget::output
};

/// In so many rounds chunks are summed, where the rank with most of them has so many. At least one.
std::int64_t rounds_of_sum(std::int64_t most_chunks);

/// Sums H, and C where there is a reference, exactly over all ranks. Held-out chunks stay out.
class StageSummer {
 public:
  /// total_tokens: of all ranks, without those held out. norm_eps: of the model's norms.
  StageSummer(Backend& backend, Communicator& comm, DeviceCollectives& device_comm, std::int64_t total_tokens,
              float norm_eps, PhaseClock& phases);

  /// Called with this rank's part of the sums and the chunks in it, by all ranks the same number of times.
  using OnRound = std::function<void(const StageSums& sums, const std::vector<std::int64_t>& chunks)>;

  /// before: what an earlier attempt has summed. The chunks are summed in a few rounds, with a call of
  /// on_round between them. In the last round, where the collectives can work beside the kernels, one range
  /// of panels after the other goes through all its chunks, and is summed over the ranks while the next is
  /// multiplied; the time of that counts as "hessian", what is left of it afterwards as "reduce".
  StageSums accumulate(StageInput input, PartialSum before, const OnRound& on_round);

 private:
  using OnRows = std::function<void(const Matrix& x)>;
  using OnBothRows = std::function<void(const Matrix& x, const Matrix& d)>;
  Matrix weighed(int slot, const StageInput& input, const Matrix& hidden, const Matrix& x);
  void visit(const StageInput& input, const std::vector<std::size_t>& positions, const OnRows& step);
  void visit_both(const StageInput& input, const std::vector<std::size_t>& positions, const OnBothRows& step);
  Matrix difference(const StageInput& input, const Matrix& hidden, const Matrix& x,
                    const Matrix& reference_hidden, const Matrix& reference_x);
  void weigh_maximum(StageInput& input);
  std::vector<float> difference_bound(const StageInput& input);
  StageSums start(StageInput& input, PartialSum& before);
  void add_chunks(const StageInput& input, const std::vector<std::size_t>& positions,
                  std::span<const PanelRange> ranges, const StageSums& sums);
  void add_cross(const StageInput& input, const std::vector<std::size_t>& positions, const StageSums& sums);
  void start_sums(std::span<const PanelRange> ranges, const HessianSum& sum);
  void finish(bool overlapped, const StageSums& sums);

  Backend& backend_;
  Communicator& comm_;
  DeviceCollectives& device_comm_;
  std::int64_t total_tokens_;
  float norm_eps_;
  PhaseClock& phases_;
};

}  // namespace gptq
