#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "pipeline/plan.h"
#include "pipeline/progress.h"

namespace gptq {
namespace {

/// Lines of a label and a value under headings.
class Page {
 public:
  void heading(const std::string& text) { text_ += text + "\n"; }
  void line(const std::string& what, const std::string& value) {
    text_ += fmt::format("  {:<22}{}\n", what, value);
  }
  void bytes(const std::string& what, std::int64_t value, const std::string& remark = "") {
    if (value != 0) line(what, bytes_text(value) + (remark.empty() ? "" : " (" + remark + ")"));
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

void write_work(const Plan& plan, Page& page) {
  page.heading("work");
  page.line("blocks, layers", fmt::format("{} blocks, {} layers to quantize", plan.blocks, plan.layers));
  if (plan.experts > 0) {
    page.line("experts",
              fmt::format("{} a block, {} a token; {} tokens an expert, were routing uniform", plan.experts,
                          plan.experts_per_token, plan.tokens * plan.experts_per_token / plan.experts));
  }
  page.line("calibration", fmt::format("{} samples, {} tokens in {} chunks of about {}", plan.samples,
                                       plan.tokens, plan.chunks, plan.chunk_tokens));
  page.line("ranks", plan.idle_ranks == 0 ? fmt::format("{}", plan.ranks)
                                          : fmt::format("{} ({} without samples: they help with the solves)",
                                                        plan.ranks, plan.idle_ranks));
  const Arithmetic& flops = plan.flops;
  page.line("arithmetic",
            fmt::format("{:.4g} TFLOP in {} (forward {:.4g}, Hessians {:.4g}, factors {:.3g}, solves {:.3g})",
                        flops.total() / 1e12, name_of(plan.compute),
                        (flops.forward + flops.reference + flops.held_out) / 1e12, flops.hessian / 1e12,
                        flops.factor / 1e12, (flops.solve + flops.correct + flops.refine) / 1e12));
  page.line("activations",
            fmt::format("on the {}", plan.device.separate || plan.activation_place == Place::disk
                                         ? name_of(plan.activation_place)
                                         : name_of(Place::host)));
}

void write_device(const Plan& plan, Page& page) {
  if (!plan.device.separate) return;
  const DeviceMemory& memory = plan.device_memory;
  page.heading("device memory of the fullest rank");
  page.bytes("activations", memory.activation_bytes,
             plan.activation_place == Place::device ? "" : "two chunks on their way through");
  page.bytes("weights", memory.weight_bytes, "two blocks");
  page.bytes("scratch", memory.scratch_bytes);
  page.bytes("embedding", memory.embedding_bytes, "at the start only");
  page.bytes("head", memory.loss_bytes, "in the end only");
  page.bytes("while quantizing", memory.quantizing_bytes(), "the largest of what follows");
  page.bytes("  Hessian", memory.sum_bytes);
  page.bytes("  factoring it", memory.factor_bytes);
  page.bytes("  solving rows", memory.solve_bytes);
  page.bytes("  changing weights", memory.replace_bytes);
  page.bytes("libraries", memory.library_bytes);
  page.line("peak",
            fmt::format("{} of {}", bytes_text(memory.peak_bytes), bytes_text(plan.device.memory_bytes)));
}

void write_host(const Plan& plan, Page& page) {
  const HostMemory& memory = plan.host;
  page.heading(plan.device.separate ? "host memory of the fullest rank" : "memory of the fullest rank");
  page.bytes("activations", memory.activation_bytes);
  page.bytes("weights", memory.weight_bytes,
             plan.device.separate ? "three blocks as read" : "three blocks as read, one as multiplied");
  page.bytes("results", memory.result_bytes);
  page.bytes("Hessian and factor", memory.hessian_bytes);
  page.bytes("scratch", memory.scratch_bytes);
  page.bytes("embedding", memory.embedding_bytes, "at the start only");
  page.bytes("head", memory.loss_bytes, "in the end only");
  page.bytes("checkpoint snapshot", memory.snapshot_bytes, "while one is written");
  page.bytes("program, libraries", memory.program_bytes);
  page.line("peak", bytes_text(memory.peak_bytes));
}

void write_data(const Plan& plan, double disk_speed, Page& page) {
  page.heading("data");
  page.line("read", fmt::format("{} by each rank, block by block", bytes_text(plan.read_bytes)));
  page.line("summed over ranks",
            fmt::format("{} of integers", bytes_text(plan.ranks > 1 ? plan.reduced_bytes : 0)));
  page.line("output", bytes_text(plan.output_bytes));
  if (plan.checkpoint_bytes == 0) return;
  page.line("checkpoint", fmt::format("{} at most by all ranks, in {} at {}/s beside the work; {} on disk",
                                      bytes_text(plan.checkpoint_bytes),
                                      duration_text(static_cast<double>(plan.checkpoint_bytes) / disk_speed),
                                      bytes_text(static_cast<std::int64_t>(disk_speed)),
                                      bytes_text(plan.checkpoint_bytes * (plan.checkpoint_keep + 1))));
}

nlohmann::json to_json(const DeviceMemory& memory, const PlannedDevice& device) {
  return {{"memory_bytes", device.memory_bytes},
          {"ranks", device.ranks},
          {"activation_bytes", memory.activation_bytes},
          {"weight_bytes", memory.weight_bytes},
          {"scratch_bytes", memory.scratch_bytes},
          {"embedding_bytes", memory.embedding_bytes},
          {"loss_bytes", memory.loss_bytes},
          {"sum_bytes", memory.sum_bytes},
          {"factor_bytes", memory.factor_bytes},
          {"solve_bytes", memory.solve_bytes},
          {"replace_bytes", memory.replace_bytes},
          {"library_bytes", memory.library_bytes},
          {"peak_bytes", memory.peak_bytes}};
}

}  // namespace

std::string Plan::text(double flops_per_rank, double disk_speed) const {
  Page page;
  write_work(*this, page);
  write_device(*this, page);
  write_host(*this, page);
  write_data(*this, disk_speed, page);
  if (flops_per_rank < 0) return page.take();
  page.heading("time");
  if (flops_per_rank > 0) {
    page.line("estimate", fmt::format("{} at {:.0f} GFLOP/s a rank (matrix products, without I/O)",
                                      duration_text(seconds(flops_per_rank)), flops_per_rank / 1e9));
  } else {
    page.line("estimate", "none: the device is not here; --device-rate TFLOP/s says how fast it multiplies");
  }
  return page.take();
}

std::string to_json(const PlannedJob& planned) {
  const Plan& plan = planned.plan;
  nlohmann::json json = {
      {"ranks", plan.ranks},
      {"compute_dtype", name_of(plan.compute)},
      {"layers", plan.layers},
      {"samples", plan.samples},
      {"tokens", plan.tokens},
      {"held_out_tokens", plan.held_out_tokens},
      {"chunk_tokens", plan.chunk_tokens},
      {"activations", name_of(plan.activation_place)},
      {"peak_bytes", plan.host.peak_bytes},
      {"read_bytes", plan.read_bytes},
      {"output_bytes", plan.output_bytes},
      {"snapshot_bytes", plan.host.snapshot_bytes},
      {"checkpoint_bytes", plan.checkpoint_bytes},
      {"checkpoint_seconds", static_cast<double>(plan.checkpoint_bytes) / planned.disk_speed},
      {"reduced_bytes", plan.reduced_bytes},
      {"flops",
       {{"forward", plan.flops.forward},
        {"hessian", plan.flops.hessian},
        {"reference", plan.flops.reference},
        {"held_out", plan.flops.held_out},
        {"factor", plan.flops.factor},
        {"solve", plan.flops.solve},
        {"correct", plan.flops.correct},
        {"refine", plan.flops.refine}}},
      {"flops_per_second_per_rank", planned.flops_per_rank}};
  if (planned.flops_per_rank > 0) json["seconds"] = plan.seconds(planned.flops_per_rank);
  if (plan.device.separate) json["device"] = to_json(plan.device_memory, plan.device);
  return json.dump(2) + "\n";
}

}  // namespace gptq
