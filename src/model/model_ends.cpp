#include "model/model_ends.h"

#include <algorithm>

#include "base/error.h"

namespace gptq {
namespace {

/// A norm outside the blocks; weight: of this module, as the model hands it out.
Norm norm_of(Backend& backend, const ModelWeights& model, std::string_view module, const HostTensor& weight) {
  const Architecture& names = model.architecture();
  HostTensor bias;
  if (names.norm == NormKind::layer) bias = model.load_outside_blocks(std::string(module) + ".bias");
  return {backend,
          names.norm,
          model.config(),
          names.norm_weight_offset,
          model.config().hidden_size,
          weight,
          names.norm == NormKind::layer ? &bias : nullptr};
}

}  // namespace

TokenEmbedding::TokenEmbedding(Backend& backend, const ModelWeights& model)
    : kernels_(backend.kernels()),
      scale_(model.config().embedding_scale),
      position_offset_(model.architecture().position_offset),
      host_table_(model.load_embedding()),
      table_(DeviceMatrix::view_or_copy(backend, host_table_)) {
  const Architecture& names = model.architecture();
  if (!backend.shares_host_memory()) host_table_ = {};
  if (!names.position_embedding.empty()) {
    const std::string name = std::string(names.position_embedding) + ".weight";
    positions_ = DeviceMatrix(backend, convert(model.load_outside_blocks(name), DType::f32));
  }
  if (!names.embedding_norm.empty()) {
    const std::string weight = std::string(names.embedding_norm) + ".weight";
    norm_.emplace(norm_of(backend, model, names.embedding_norm, model.load_outside_blocks(weight)));
  }
}

void TokenEmbedding::run(const Batch& batch, std::span<const std::int32_t> ids, const Matrix& hidden) const {
  kernels_.embed(ids, table_.matrix(), hidden);
  if (scale_ != 1) kernels_.scale(hidden, scale_);
  if (positions_.matrix().rows > 0) {
    const std::int64_t known = positions_.matrix().rows - position_offset_;
    for (std::int64_t s = 0; s < batch.samples(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      const std::int64_t length = batch.offsets[at + 1] - batch.offsets[at];
      if (length <= known) continue;
      throw InputError("a sample has {} tokens, but the model has learned {} positions; use shorter samples",
                       length, known);
    }
    kernels_.add_positions(batch, positions_.matrix(), position_offset_, hidden);
  }
  if (norm_) norm_->apply(kernels_, hidden, hidden);
}

FinalNorm::FinalNorm(Backend& backend, const ModelWeights& model)
    : kernels_(backend.kernels()),
      norm_(norm_of(backend, model, model.architecture().final_norm, model.load_final_norm())) {}

}  // namespace gptq
