#include "pipeline/held_out.h"

#include "pipeline/gather.h"

namespace gptq {
namespace {

/// Of the backend's scratch memory, beside those of StageSummer.
enum Slot : int { kOutput = 19, kReferenceOutput };

}  // namespace

HeldOutJudge::HeldOutJudge(Backend& backend, Communicator& comm, const StageInput& input, DType compute,
                           PhaseClock& phases)
    : backend_(backend), comm_(comm), input_(input), compute_(compute), phases_(phases) {
  for (std::size_t i = 0; i < input.activations.chunks(); ++i) {
    if (input.activations.chunk(i).held_out) chunks_.push_back(i);
  }
}

std::vector<HeldOutJudge::Sums> HeldOutJudge::of_own_samples(const LayerToQuantize& layer,
                                                             const LinearWeights& candidate) {
  std::vector<Sums> sums;
  const std::int64_t out = candidate.out_features();
  const auto output = [&](Slot slot, const Batch& batch) {
    const std::size_t bytes = static_cast<std::size_t>(batch.rows() * out) * sizeof(float);
    return Matrix{backend_.scratch(slot, bytes), DType::f32, batch.rows(), out, out};
  };
  const auto compare = [&](const Batch& batch, const Matrix& wanted, const Matrix& x) {
    const Matrix given = output(kOutput, batch);
    backend_.kernels().linear(batch, x, candidate, given, false);
    std::vector<double> error(static_cast<std::size_t>(batch.samples())), norm(error.size());
    backend_.kernels().squared_error(batch, wanted, given, error, norm);
    for (std::size_t s = 0; s < error.size(); ++s) sums.push_back({error[s], norm[s]});
  };
  const auto outputs_of = [&](const Batch& batch, const Matrix& x) {
    const Matrix wanted = output(kReferenceOutput, batch);
    backend_.kernels().linear(batch, x, *layer.prepared, wanted, false);
    return wanted;
  };
  Activations* const reference = input_.corrected ? input_.reference : nullptr;
  const bool residual = input_.target == CorrectionTarget::residual;
  Activations::Use use, reference_use;
  use.x_width = input_.step_width;
  if (residual) {
    use.hidden = reference_use.hidden = Activations::Use::read;
  } else {
    reference_use = use;
  }
  input_.activations.visit(
      chunks_, use, [&](std::size_t i, const Matrix& hidden, const Matrix& of_step, const Matrix&) {
        const Matrix x = input_.of(of_step);
        const Batch& batch = input_.activations.batch(i);
        if (reference == nullptr) return compare(batch, outputs_of(batch, x), x);
        reference->visit(
            {i}, reference_use,
            [&](std::size_t, const Matrix& reference_hidden, const Matrix& reference_x, const Matrix&) {
              if (!residual) return compare(batch, outputs_of(batch, input_.of(reference_x)), x);
              const Matrix wanted = output(kReferenceOutput, batch);
              backend_.kernels().subtract(reference_hidden, hidden, {}, wanted);
              compare(batch, wanted, x);
            });
      });
  return sums;
}

double HeldOutJudge::relative_error(const LayerToQuantize& layer, const QuantizedLayer& candidate) {
  const auto scope = phases_.in("held out");
  const auto weights = backend_.kernels().prepare_quantized(weights_of(candidate), layer.bias, compute_);
  Sums all;
  for (const Sums& sums : gather_in_order(of_own_samples(layer, *weights), comm_)) {
    all.error += sums.error;
    all.norm += sums.norm;
  }
  return all.norm > 0 ? all.error / all.norm : 0;
}

}  // namespace gptq
