#include "pipeline/job_streams.h"

#include <algorithm>
#include <iterator>

#include "pipeline/embedding.h"

namespace gptq {

std::vector<Chunk> chunks_of(const JobInputs& inputs, const Plan& plan) {
  return make_chunks(inputs.sample_lengths(), plan.chunk_tokens, inputs.held_out());
}

namespace {

std::vector<Chunk> chunks_here(const JobInputs& inputs, const Plan& plan, int replica) {
  const std::vector<Chunk> all = chunks_of(inputs, plan);
  const auto [first, last] = chunks_of_rank(all, replica, plan.ranks / plan.stages);
  return {all.begin() + static_cast<std::ptrdiff_t>(first), all.begin() + static_cast<std::ptrdiff_t>(last)};
}

}  // namespace

JobStreams::JobStreams(const JobInputs& inputs, const ComputeContext& compute, const Plan& plan,
                       const Activations::Room& room, int replica, std::int64_t x_width)
    : inputs_(inputs), backend_(*compute.backend) {
  const auto make = [&](std::optional<Activations>& stream, const std::vector<Chunk>& chunks,
                        std::int64_t width) {
    stream.emplace(backend_, inputs.calibration, chunks, inputs.model->config().hidden_size, width,
                   compute.dtype, room);
  };
  const std::vector<Chunk> own = chunks_here(inputs, plan, replica);
  make(quantized_, own, x_width);
  if (plan.reference == ReferenceStream::all) make(reference_, own, x_width);
  if (plan.reference != ReferenceStream::held_out) return;
  std::vector<Chunk> held_out;
  std::copy_if(own.begin(), own.end(), std::back_inserter(held_out),
               [](const Chunk& chunk) { return chunk.held_out; });
  make(held_out_, held_out, 0);
}

std::vector<Activations*> JobStreams::all() {
  std::vector<Activations*> streams;
  for (std::optional<Activations>* stream : {&quantized_, &reference_, &held_out_}) {
    if (*stream) streams.push_back(&**stream);
  }
  return streams;
}

void JobStreams::embed() {
  for (Activations* stream : all()) embed_samples(backend_, *inputs_.model, inputs_.calibration, *stream);
}

BlockQuantizer::Streams JobStreams::in_block() {
  return {*quantized_, reference(), held_out_ ? &*held_out_ : nullptr};
}

StreamsToRestore JobStreams::to_restore() {
  return {&*quantized_, reference(), held_out_ ? &*held_out_ : nullptr};
}

void JobStreams::add_to(SafePoint& point) const {
  point.activations = &*quantized_;
  if (reference_) point.reference = &*reference_;
  if (held_out_) point.held_out = &*held_out_;
}

Activations* JobStreams::held_out_reference() {
  if (held_out_) return &*held_out_;
  return inputs_.held_out() > 0 ? reference() : nullptr;
}

}  // namespace gptq
